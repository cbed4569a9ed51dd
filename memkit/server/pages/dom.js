// Elements and words. Text only ever becomes text nodes: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((child) => child != null && child !== false).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return node;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function table(caption, columns, rows) {
  const kind = (column) => (column.number ? { class: "number" } : column.text ? { class: "text" } : {});
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", ...(c.number ? { class: "number" } : {}) }, c.title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((c) => h("td", kind(c), c.of(row))))))));
}

export const facts = (pairs) => h("dl", {}, pairs.filter(([, value]) => value != null && value !== "")
  .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

export const tiles = (pairs) => h("ul", { class: "tiles" }, pairs.map(([name, value]) => h("li", {}, h("b", {}, value), name)));

export const button = (text, act, kind = "") => h("button", { type: "button", class: kind, onclick: act }, text);

export function field(label, input, hint) {
  input.id = `field-${label.toLowerCase().replace(/\W+/g, "-")}`;
  if (hint) input.setAttribute("aria-describedby", `${input.id}-hint`);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input,
    hint && h("span", { class: "soft", id: `${input.id}-hint` }, hint));
}

export function number(value, digits = 3) {
  if (value == null || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at ? value.toFixed(1) : value} ${units[at]}`;
}

export const when = (text) => (text ? h("time", { datetime: text }, text.slice(0, 16).replace("T", " ")) : "–");

// A text with its spans marked; with `around`, only that many characters on either side of them.
export function marked(text, spans, around = Infinity) {
  const characters = Array.from(text); // spans count characters as Python does
  const sorted = [...spans].sort((a, b) => a.start - b.start);
  const first = Math.max(0, (sorted[0]?.start ?? 0) - around);
  const last = Math.min(characters.length, Math.max(0, ...sorted.map((s) => s.end)) + around);
  const parts = [first > 0 && "… "];
  let at = first;
  for (const { start, end } of sorted) {
    if (end <= at) continue;
    parts.push(characters.slice(at, Math.max(at, start)).join(""));
    parts.push(h("mark", {}, characters.slice(Math.max(at, start), end).join("")));
    at = end;
  }
  parts.push(characters.slice(at, last).join(""), last < characters.length && " …");
  return h("div", { class: "source", tabindex: "0", role: "region", "aria-label": "Source text" }, parts);
}

let timer;
export function tell(text) {
  const place = document.getElementById("told");
  place.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => { place.textContent = ""; }, 6000);
}

export function confirmed(title, text, word) {
  return new Promise((resolve) => {
    const close = (answer) => () => { dialog.close(); dialog.remove(); resolve(answer); };
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", oncancel: close(false) },
      h("h2", { id: "dialog-title" }, title), h("p", {}, text),
      h("div", { class: "row" }, button("Cancel", close(false)), button(word, close(true), "danger")));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// A name as it is, or where nothing of it can be seen, as it is sent.
export const named = (name) => (/[^\p{C}\p{Z}\p{M}]/u.test(name) ? name : encodeURIComponent(name));
