// One memory: its source, its artifact, its versions; going back, and forgetting.

import { get, post, remove } from "./api.js";
import { STATUS } from "./bank.js";
import { chart } from "./chart.js";
import { button, bytes, confirmed, facts, field, h, marked, number, table, tell, when } from "./dom.js";

const FIGURES = { fidelity: "Fidelity", held_out_fidelity: "Fidelity, held out", answer_nats: "Answers, nats", reconstruction_nats: "Reconstruction, nats", drift_nats: "Drift, nats" };

export async function memory(place, id) {
  const path = `/memories/${encodeURIComponent(id)}`;
  const [info, source, history] = await Promise.all([get(path), get(`${path}/source`), get(`${path}/history`)]);
  const artifacts = await Promise.all(history.versions.map((v) => get(`${path}/artifact?version=${v.version}`).catch(() => null)));
  const again = () => dispatchEvent(new HashChangeEvent("hashchange"));
  const current = artifacts[history.versions.findIndex((v) => v.current)] ?? null;
  place.append(
    h("p", {}, h("a", { href: "#/" }, "← All memories")),
    h("h1", {}, info.title || info.name || info.id),
    facts([
      ["Id", h("code", {}, info.id)],
      ["Status", STATUS[info.status] + (info.error ? `: ${info.error}` : "")],
      ["Characters", number(info.characters)],
      ["Entries", info.name && `${info.entries}, ${info.behind} of them newer than the artifact`],
      ["Questions answered", number(info.asked)],
      ["Remembered (UTC)", when(info.created)],
    ]),
    actions(info, path, again),
    h("h2", {}, "Source"),
    ...sourceOf(source, current),
    h("h2", {}, "Artifact"),
    current ? artifactOf(current) : h("p", {}, "There is none yet: questions are answered from the text."),
    ...curves(history, artifacts),
    h("h2", {}, "Versions"),
    history.versions.length ? versions(history, artifacts, path, again) : h("p", {}, "None yet."),
    ...(history.versions.length > 1 ? [h("h2", {}, "Compare versions"), comparing(history, path)] : []));
}

function actions(info, path, again) {
  const act = (work, said) => async () => {
    try { await work(); tell(said); again(); } catch (error) { tell(error.message); }
  };
  return h("div", { class: "row" },
    button("Compile", act(() => post(`${path}/compile`), "It waits to be compiled."), "main"),
    info.version > 0 && button(info.pinned ? "Unpin" : `Pin version ${info.version}`, act(() => post(`${path}/pin`, { pinned: !info.pinned }), info.pinned ? "Unpinned." : "Pinned.")),
    button("Forget", async () => {
      if (!(await confirmed("Forget this memory?", "Its text, vectors and the artifacts of all versions are removed. This cannot be undone.", "Forget"))) return;
      try { await remove(path); tell("Forgotten."); location.hash = "#/"; } catch (error) { tell(error.message); }
    }, "danger"));
}

function sourceOf(source, artifact) {
  const spans = (artifact?.sources ?? []).filter((s) => s.document_digest === source.digest);
  const about = facts([
    ["SHA-256", h("code", {}, source.digest)],
    ["Provenance", artifact && (spans.length ? `the artifact was made of characters ${spans.map((s) => `${s.start}–${s.end}`).join(", ")}` : "the artifact was made of another state of this text")],
  ]);
  if (!source.entries.length) return [about, marked(source.text, [])];
  const characters = Array.from(source.text);
  return [about, table("Entries, oldest first", [
    { title: "Said (UTC)", of: (e) => when(e.said) },
    { title: "By", of: (e) => e.speaker },
    { title: "Line", text: true, of: (e) => characters.slice(e.start, e.end).join("") },
    { title: "In the artifact", of: (e) => (e.compiled ? "yes" : "not yet") },
    { title: "Characters", number: true, of: (e) => `${e.start}–${e.end}` },
  ], source.entries)];
}

function artifactOf(artifact) {
  const said = artifact.verification ?? {};
  return facts([
    ["Id", h("code", {}, artifact.id)],
    ["Kind", `${artifact.kind}, ${number(artifact.tokens)} positions, ${bytes(artifact.nbytes)}`],
    ["Compiler", `${artifact.compiler}, version ${artifact.compiler_version}, seed ${artifact.seed}`],
    ["Model", h("code", {}, artifact.fingerprint.slice(0, 16))],
    ...Object.entries(FIGURES).map(([key, title]) => [title, said[key] != null ? number(said[key]) : null]),
    ["Self-test questions", said.questions != null ? number(said.questions) : null],
    ["Tensors", artifact.tensors.map((t) => `${t.name} ${t.dtype} [${Object.entries(t.axes).map(([axis, size]) => `${axis} ${size}`).join(", ")}]`).join("; ")],
    ["Signed", artifact.signature && Object.keys(artifact.signature).length ? "yes" : "no"],
  ]);
}

function curves(history, artifacts) {
  const shown = (name) => history.versions.map((v, i) => [v.version, artifacts[i]?.verification?.[name]]).filter(([, y]) => typeof y === "number");
  const fidelity = chart("Fidelity by version", "version", ["fidelity", "held_out_fidelity"].map((name) => ({ name: FIGURES[name], points: shown(name) })), { from: 0, to: 1 });
  const last = artifacts.filter((each) => each?.verification?.curve).at(-1);
  const points = last?.verification.curve ?? [];
  const phases = [...new Set(points.map(([phase]) => phase))];
  let before = 0;
  const series = phases.map((name) => {
    const own = points.filter(([phase]) => phase === name).map(([, step, loss]) => [step + before, loss]);
    before = Math.max(...own.map(([x]) => x));
    return { name: `phase ${name}`, points: own };
  });
  const losses = chart("Loss of the newest compilation, nats", "step", series, { log: true });
  return [fidelity && h("h2", {}, "Fidelity"), fidelity, losses && h("h2", {}, "Loss"), losses].filter(Boolean);
}

function versions(history, artifacts, path, again) {
  const back = (version) => async () => {
    try { await post(`${path}/rollback`, { version }); tell(`Version ${version} answers now.`); again(); } catch (error) { tell(error.message); }
  };
  const rows = history.versions.map((v, i) => ({ ...v, shown: artifacts[i]?.verification ?? {} })).reverse();
  return table("Versions that are kept, newest first", [
    { title: "Version", number: true, of: (v) => v.version },
    { title: "Made (UTC)", of: (v) => when(v.created) },
    { title: "Compiler", of: (v) => v.compiler },
    { title: "Size", number: true, of: (v) => bytes(v.nbytes) },
    { title: "Seconds", number: true, of: (v) => number(v.seconds) },
    { title: "Fidelity", number: true, of: (v) => number(v.shown.fidelity) },
    { title: "Answers", of: (v) => (v.current ? h("b", {}, history.pinned ? "this one, pinned" : "this one") : button(`Roll back to ${v.version}`, back(v.version))) },
  ], rows);
}

function comparing(history, path) {
  const numbers = history.versions.map((v) => v.version);
  const choice = (chosen) => h("select", {}, numbers.map((n) => h("option", { value: n, selected: n === chosen }, n)));
  const [older, newer, result] = [choice(numbers.at(-2)), choice(numbers.at(-1)), h("div", { "aria-live": "polite" })];
  const compare = async () => {
    try {
      const found = await get(`${path}/diff?older=${older.value}&newer=${newer.value}`);
      const lines = [...found.removed.map((line) => ["only in the older", line]), ...found.added.map((line) => ["only in the newer", line])];
      result.replaceChildren(
        lines.length ? table("Entries that only one of them has seen", [{ title: "Where", of: ([where]) => where }, { title: "Line", text: true, of: ([, line]) => line }], lines) : h("p", {}, "Both have seen the same entries."),
        table("What they showed when they were admitted", [
          { title: "Figure", of: ([name]) => FIGURES[name] ?? name },
          { title: `Version ${found.older}`, number: true, of: ([, pair]) => number(pair[0]) },
          { title: `Version ${found.newer}`, number: true, of: ([, pair]) => number(pair[1]) },
        ], Object.entries(found.figures)));
    } catch (error) { tell(error.message); }
  };
  return h("div", {}, h("div", { class: "row" }, field("Older", older), field("Newer", newer), button("Compare", compare)), result);
}
