// Evaluation reports: tables of their rows, loss curves, risk by coverage.

import { get } from "./api.js";
import { chart } from "./chart.js";
import { facts, h, number, table } from "./dom.js";

export async function reports(place) {
  const found = (await get("/reports")).reports;
  place.append(h("h1", {}, "Evaluation reports"), found.length
    ? h("ul", {}, found.map((name) => h("li", {}, h("a", { href: `#/reports/${encodeURIComponent(name)}` }, name))))
    : h("p", {}, "The server was given none: memkit serve --reports FOLDER shows what memkit eval --json wrote."));
}

const plain = (value) => value == null || ["string", "number", "boolean"].includes(typeof value) || (Array.isArray(value) && value.length === 2 && value.every((v) => typeof v === "number"));

function cell(value) {
  if (Array.isArray(value)) return value.map((v) => number(v)).join("–");
  if (typeof value === "number") return number(value);
  return value == null ? "–" : String(value);
}

export async function report(place, name) {
  const found = await get(`/reports/${encodeURIComponent(name)}`);
  const rows = Array.isArray(found.rows) ? found.rows.filter((row) => row && typeof row === "object") : [];
  const about = Object.entries(found).filter(([, value]) => plain(value) && !Array.isArray(value));
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => rows.every((row) => plain(row[key])) && rows.some((row) => row[key] != null));
  place.append(h("p", {}, h("a", { href: "#/reports" }, "← All reports")), h("h1", {}, name), facts(about.map(([key, value]) => [key, cell(value)])));
  if (rows.length) {
    place.append(h("h2", {}, "Rows"), table(`${rows.length} rows`, names.map((key) => ({
      title: key.replaceAll("_", " "), number: rows.some((row) => typeof row[key] === "number"), of: (row) => cell(row[key]),
    })), rows));
  }
  const losses = rows.filter((row) => Array.isArray(row.curve) && row.curve.length).map((row) => ({ name: `${row.method ?? "row"} ${row.ratio ?? ""}`, points: joined(row.curve) }));
  const risks = Object.entries(found.calibrations ?? {}).filter(([, c]) => c?.risk_coverage?.length).map(([key, c]) => ({ name: key, points: c.risk_coverage }));
  const drawn = [chart("Training loss, nats", "step", losses, { log: true }), chart("Wrong answers of artifacts, by the share of questions left to them", "coverage", risks)];
  for (const figure of drawn.filter(Boolean)) place.append(figure);
}

function joined(curve) {
  let [phase, before, last] = [curve[0][0], 0, 0];
  return curve.map(([name, step, loss]) => {
    if (name !== phase) { phase = name; before = last; }
    last = before + step;
    return [last, loss];
  });
}
