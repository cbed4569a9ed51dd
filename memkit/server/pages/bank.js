// The bank: what is remembered, how large it is, and remembering more.

import { get, post, user } from "./api.js";
import { button, bytes, field, h, named, number, table, tell, tiles, when } from "./dom.js";

export const STATUS = { text: "text only", compiled: "compiled", failed: "could not be compiled" };
const ENGINES = { transformers: "in this process", sglang: "SGLang", upstream: "an upstream" };

export async function bank(place) {
  const [status, found] = await Promise.all([get("/status"), get("/memories")]);
  place.append(
    h("h1", {}, `Memories of ${named(user() || status.tenant)}`),
    tiles([
      ["memories", number(status.memories)],
      ["compiled", number(status.compiled)],
      ["characters of text", number(status.characters)],
      ["in artifacts", bytes(status.artifact_bytes)],
      ["in the queue", number(status.waiting)],
      ["model", status.upstream ? "an upstream" : status.model],
      ["engine", `${ENGINES[status.engine]}${status.engine_ready ? "" : ", not available now"}`],
    ]),
    h("h2", {}, "All memories"),
    found.memories.length ? listed(found.memories) : h("p", {}, "Nothing is remembered yet."),
    h("h2", {}, "Remember"),
    remembering());
}

function listed(memories) {
  const words = h("input", { type: "search", placeholder: "words of a title, or an id" });
  const rows = h("div", {});
  const draw = () => {
    const text = words.value.trim().toLowerCase();
    const chosen = memories.filter((m) => `${m.title} ${m.name ?? ""} ${m.id}`.toLowerCase().includes(text)).reverse();
    rows.replaceChildren(rowsOf(chosen.slice(0, 500), chosen.length));
  };
  words.addEventListener("input", draw);
  draw();
  return h("div", {}, memories.length > 8 && field("Find", words), rows);
}

function rowsOf(memories, count) {
  const caption = count > memories.length ? `The newest ${memories.length} of ${number(count)} memories` : `${number(count)} memories, newest first`;
  return table(caption, [
    { title: "Title", text: true, of: (m) => h("a", { href: `#/memory/${m.id}` }, m.title || m.name || m.id) },
    { title: "Kind", of: (m) => (m.name ? `log, ${number(m.entries)} entries` : "document") },
    { title: "Status", of: (m) => h("span", { class: { failed: "bad", compiled: "good" }[m.status] ?? "" }, STATUS[m.status], m.pinned && ", pinned", m.behind > 0 && m.version > 0 && `, ${m.behind} newer ${m.behind === 1 ? "entry" : "entries"}`) },
    { title: "Version", number: true, of: (m) => m.version || "–" },
    { title: "Characters", number: true, of: (m) => number(m.characters) },
    { title: "Artifact", number: true, of: (m) => bytes(m.artifact_bytes) },
    { title: "Asked", number: true, of: (m) => number(m.asked) },
    { title: "Remembered (UTC)", of: (m) => when(m.created) },
  ], memories);
}

function remembering() {
  const text = h("textarea", { rows: 5, required: true });
  const title = h("input", { type: "text", maxlength: 512 });
  async function send(event) {
    event.preventDefault();
    try {
      const made = await post("/memories", { text: text.value, title: title.value });
      tell(made.job ? "Remembered; it will be compiled." : "Remembered.");
      location.hash = `#/memory/${made.memory.id}`;
    } catch (error) {
      tell(error.message);
    }
  }
  return h("form", { onsubmit: send }, field("Title", title), field("Text", text),
    h("div", { class: "row" }, h("button", { class: "main" }, "Remember"), button("Clear", () => { text.value = ""; title.value = ""; })));
}
