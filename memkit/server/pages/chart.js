// Curves as SVG, with their figures in words for those who cannot see them.

import { h, number, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [560, 220, 56, 12, 14, 34];
const STYLES = ["curve", "curve second", "curve third"];
const WORDS = ["solid", "dashed", "dotted"];

// `series`: [{name, points: [[x, y], ...]}]; with `log` the y axis is logarithmic.
export function chart(title, xTitle, series, { log = false, from, to } = {}) {
  const drawn = series.filter((each) => each.points.length);
  if (!drawn.length) return null;
  const points = drawn.flatMap((each) => each.points).filter(([, y]) => !log || y > 0);
  if (!points.length) return null;
  const scale = (value) => (log ? Math.log10(Math.max(value, 1e-9)) : value);
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => scale(y));
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const low = from ?? Math.min(...ys);
  const high = to ?? Math.max(...ys);
  const px = (x) => LEFT + ((x - left) / (right - left || 1)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((scale(y) - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const shown = (y) => number(log ? 10 ** y : y, 2);
  const line = (i) => (drawn.length > 1 ? ` (${WORDS[i % WORDS.length]})` : "");
  const said = drawn.map((each, i) => `${each.name}${line(i)}: from ${number(each.points[0][1])} to ${number(each.points.at(-1)[1])}`).join("; ");
  const lines = drawn.map((each, i) => [
    svg("path", { class: STYLES[i % STYLES.length], d: each.points.map(([x, y], at) => `${at ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("") }),
    each.points.length < 30 && each.points.map(([x, y]) => svg("circle", { class: "dot", cx: px(x).toFixed(1), cy: py(y).toFixed(1), r: 3 })),
  ]);
  return h("figure", {},
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${said}` },
      svg("line", { class: "axis", x1: LEFT, y1: HEIGHT - BOTTOM, x2: WIDTH - RIGHT, y2: HEIGHT - BOTTOM }),
      svg("line", { class: "axis", x1: LEFT, y1: TOP, x2: LEFT, y2: HEIGHT - BOTTOM }),
      svg("text", { x: LEFT - 6, y: TOP + 8, "text-anchor": "end" }, shown(high)),
      svg("text", { x: LEFT - 6, y: HEIGHT - BOTTOM, "text-anchor": "end" }, shown(low)),
      svg("text", { x: LEFT, y: HEIGHT - BOTTOM + 18 }, number(left)),
      svg("text", { x: WIDTH - RIGHT, y: HEIGHT - BOTTOM + 18, "text-anchor": "end" }, number(right)),
      svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xTitle),
      lines),
    h("figcaption", {}, `${title}. ${said}.`));
}
