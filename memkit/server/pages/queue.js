// What waits to be compiled, how far it is, and what became of it.

import { get, post } from "./api.js";
import { button, h, named, number, table, tell, when } from "./dom.js";

const FAST = 1000;
const SLOW = 2000;

export async function queue(place) {
  const jobs = h("div", { id: "jobs" });
  const due = h("div", { "aria-live": "polite" });
  let timer;
  let stopped = false;
  const draw = async () => {
    const [found, memories] = await Promise.all([get("/recompile"), get("/memories")]);
    const titles = Object.fromEntries(memories.memories.map((m) => [m.id, m.title || m.name || m.id]));
    jobs.replaceChildren(found.jobs.length ? listed(found.jobs, titles) : h("p", {}, "Nothing was compiled since the server started."));
    return found.jobs.some((job) => job.state === "waiting" || job.state === "running");
  };
  const look = async () => {
    const busy = await draw().catch(() => false);
    if (!stopped) timer = setTimeout(look, busy ? FAST : SLOW);
  };
  const plan = async () => {
    try { due.replaceChildren(...planned(await get("/recompile/plan"))); } catch (error) { tell(error.message); }
  };
  const start = async () => {
    try { await post("/recompile"); tell("The recompilation waits for its turn."); clearTimeout(timer); look(); } catch (error) { tell(error.message); }
  };
  place.append(h("h1", {}, "Recompilation"),
    h("div", { class: "row" }, button("Recompile what is due", start, "main"), button("Show what is due", plan)),
    due, h("h2", {}, "Queue"), jobs);
  const busy = await draw();
  timer = setTimeout(look, busy ? FAST : SLOW);
  return () => { stopped = true; clearTimeout(timer); };
}

function planned(plan) {
  const parts = [h("h2", {}, "What is due")];
  if (plan.tasks.length) {
    parts.push(table(`About ${number(plan.seconds)} seconds in all`, [
      { title: "User", of: (t) => (t.user ? named(t.user) : "–") },
      { title: "Memory", of: (t) => h("a", { href: `#/memory/${t.memory_id}` }, t.memory_id) },
      { title: "Why", text: true, of: (t) => t.reason },
      { title: "Tokens", number: true, of: (t) => number(t.tokens) },
      { title: "Seconds", number: true, of: (t) => number(t.seconds) },
    ], plan.tasks));
  } else parts.push(h("p", {}, "Nothing."));
  if (plan.skipped.length) {
    parts.push(table("Left as it is", [
      { title: "User", of: (t) => (t.user ? named(t.user) : "–") },
      { title: "Memory", of: (t) => h("a", { href: `#/memory/${t.memory_id}` }, t.memory_id) },
      { title: "Why", text: true, of: (t) => t.reason },
    ], plan.skipped));
  }
  return parts;
}

function listed(jobs, titles) {
  const name = (id) => h("a", { href: `#/memory/${id}` }, titles[id] ?? id);
  return table("Newest first", [
    { title: "Asked for (UTC)", of: (j) => when(j.created) },
    { title: "Kind", of: (j) => (j.kind === "compile" ? "one memory" : "all that is due") },
    { title: "State", of: (j) => h("span", { class: j.state === "failed" ? "bad" : "" }, j.state) },
    { title: "Progress", text: true, of: (j) => progress(j, name) },
    { title: "Outcome", text: true, of: (j) => [j.error, ...j.outcomes.map((o) => h("div", {}, name(o.memory_id), `: ${o.status}`, o.version ? `, version ${o.version}` : "", o.reason ? `, ${o.reason}` : ""))] },
  ], jobs);
}

function progress(job, name) {
  if (job.state !== "running" || !job.now) return job.total ? `${job.outcomes.length} of ${job.total}` : "–";
  const now = job.now;
  const share = now.steps ? now.step / now.steps : 0;
  const told = `${now.phase || "beginning"}, step ${now.step} of ${now.steps}${now.loss == null ? "" : `, loss ${number(now.loss)}`}`;
  return [name(now.memory_id), " ", h("progress", { max: 1, value: share, "aria-label": `Progress: ${told}` }), h("div", { class: "soft" }, told)];
}
