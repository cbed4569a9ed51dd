// A question, its answer, and why it is what it is.

import { get, post } from "./api.js";
import { facts, field, h, marked, number, table } from "./dom.js";

const ROUTES = { latent: "the memory's artifact", text: "passages of the memory's text", none: "no memory: the model alone" };

export async function ask(place) {
  const question = h("input", { type: "text", required: true, maxlength: 20000, autocomplete: "off" });
  const gate = h("select", {}, ["", "auto", "rule", "entropy", "learned"].map((name) => h("option", { value: name }, name || "the server's")));
  const send = h("button", { class: "main" }, "Ask");
  const result = h("div", { "aria-live": "polite", id: "answer" });
  async function asked(event) {
    event.preventDefault();
    send.disabled = true;
    result.replaceChildren(h("p", { class: "soft" }, "The model is at it …"));
    try {
      const answer = await post("/ask", { question: question.value, max_tokens: 128, ...(gate.value ? { gate: gate.value } : {}) });
      result.replaceChildren(...(await shown(answer)));
    } catch (error) {
      result.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message));
    }
    send.disabled = false;
  }
  place.append(h("h1", {}, "Ask"), h("form", { onsubmit: asked }, field("Question", question), field("Gate", gate), h("div", { class: "row" }, send)), result);
}

async function shown({ text, route, trace }) {
  const parts = [
    h("h2", {}, "Answer"),
    h("p", { class: "answer" }, text || "(nothing)"),
    h("h2", {}, "Why"),
    facts([
      ["From", ROUTES[route]],
      ["Because", trace.reason],
      ["Gate", `${trace.gate}, ${trace.calibrated ? "calibrated" : "not calibrated"}`],
      ["Margin", marginOf(trace)],
      ["Memory", trace.memory_id && h("a", { href: `#/memory/${trace.memory_id}` }, titleOf(trace))],
      ["Artifact", trace.artifact_id && h("code", {}, `${trace.artifact_id.slice(0, 16)}, version ${trace.version}`)],
      ["Tokens", `${number(trace.prompt_tokens)} in front, ${number(trace.completion_tokens)} in the answer${trace.stopped ? "" : " (cut off)"}`],
      ["Time", `${number(trace.route_ms + trace.ttft_ms)} ms to the first token, ${number(trace.route_ms)} ms of them to choose the memory; ${number(trace.route_ms + trace.total_ms)} ms in all`],
      ["Notes", trace.notes.join("; ")],
    ]),
  ];
  if (trace.candidates.length) parts.push(h("h2", {}, "Memories that were weighed"), candidates(trace));
  if (trace.memory_id && route !== "none") {
    const source = await get(`/memories/${trace.memory_id}/source`).catch(() => null);
    if (source) {
      const title = route === "latent" ? "Where the source says so (the model read the artifact)" : "What the model read";
      parts.push(h("h2", {}, title), marked(source.text, trace.spans, 300));
    }
  }
  return parts;
}

// What decided, and how far it was from its threshold. With a memory's text that is the text's own score: the
// reason beside it tells another one, by which the artifact was not trusted.
const DECIDED = {
  rule: { none: "similarity", text: "similarity", latent: "similarity" },
  entropy: { none: "entropy, in nats,", text: "entropy, in nats,", latent: "entropy, in nats," },
  learned: { none: "score", text: "score of the text, which is read,", latent: "score of the artifact" },
};

function marginOf({ gate, route, margin }) {
  if (margin == null) return null;
  const above = gate === "entropy" ? margin < 0 : margin >= 0; // an entropy is to stay below its threshold
  return `the ${DECIDED[gate]?.[route] ?? "score"} is ${number(Math.abs(margin))} ${above ? "above" : "below"} its threshold`;
}

const titleOf = (trace) => trace.candidates.find((c) => c.memory_id === trace.memory_id)?.title || trace.memory_id;

function candidates(trace) {
  return table("Best found first", [
    { title: "Memory", text: true, of: (c) => h("span", { class: c.memory_id === trace.memory_id ? "chosen" : "" }, h("a", { href: `#/memory/${c.memory_id}` }, c.title || c.memory_id), c.memory_id === trace.memory_id && (trace.route === "none" ? " (best, not used)" : " (used)")) },
    { title: "Similarity", number: true, of: (c) => number(c.similarity) },
    { title: "Overlap", number: true, of: (c) => number(c.features.overlap) },
    { title: "Lead", number: true, of: (c) => number(c.features.margin) },
    { title: "Entropy", number: true, of: (c) => number(c.features.entropy) },
    { title: "Score", number: true, of: (c) => number(c.score) },
    { title: "Artifact", text: true, of: (c) => (c.obstacle == null ? "not looked at" : c.obstacle || "usable") },
  ], trace.candidates);
}
