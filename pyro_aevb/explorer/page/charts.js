// Charts as SVG: learning curves, bars, steps and lines.

import { drawing, plainNumber } from "./elements.js";
import { ticksOf } from "./map.js";
import { colorOf } from "./pictures.js";

const WIDTH = 560;
const HEIGHT = 300;
const LEFT = 76;
const BOTTOM = 44;
const MOST_NAMES = 40; // of bars, below which each has its name
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

function frameOf({ label, xs, ys, xName, yName, logX = false, logY = false, bare = false }) {
  const svg = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  const [fx, fy] = [logX, logY].map((log) => (log ? Math.log10 : (value) => value));
  const [x0, x1] = endsOf(xs.map(fx));
  const [y0, y1] = endsOf(ys.map(fy));
  const x = (value) => LEFT + ((fx(value) - x0) / (x1 - x0)) * (WIDTH - LEFT - 12);
  const y = (value) => 10 + ((y1 - fy(value)) / (y1 - y0)) * (HEIGHT - BOTTOM - 10);
  if (!bare) svg.append(...ticks(x0, x1, logX).map((value) => vertical(x(value), plainNumber(value))));
  svg.append(...ticks(y0, y1, logY).map((value) => horizontal(y(value), plainNumber(value))));
  svg.append(words(LEFT + (WIDTH - LEFT) / 2, HEIGHT - 6, xName, "middle"));
  const upright = words(0, 0, yName, "middle");
  upright.setAttribute("transform", `translate(16 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`);
  svg.append(upright);
  return { svg, x, y };
}

function endsOf(values) {
  const known = values.filter(Number.isFinite);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const room = 0.05 * (high - low) || 0.5;
  return [low - room, high + room];
}

function ticks(low, high, log) {
  if (!log) return ticksOf(low, high);
  const powers = Array.from({ length: Math.max(0, Math.floor(high) - Math.ceil(low) + 1) }, (_, i) => 10 ** (Math.ceil(low) + i));
  if (powers.length > 1) return powers;
  return [1, 2, 3, 5, 10, 20, 50].map((m) => m * 10 ** Math.floor(low)).filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
}

function vertical(x, text) {
  return drawing("g", {}, drawing("line", { class: "grid", x1: x, x2: x, y1: 10, y2: HEIGHT - BOTTOM }), words(x, HEIGHT - BOTTOM + 15, text, "middle"));
}

function horizontal(y, text) {
  return drawing("g", {}, drawing("line", { class: "grid", x1: LEFT, x2: WIDTH - 12, y1: y, y2: y }), words(LEFT - 6, y + 4, text, "end"));
}

function words(x, y, text, anchor = "start") {
  return drawing("text", { x, y, "text-anchor": anchor }, text);
}

function path(points, attributes) {
  return drawing("path", { d: points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join(""), fill: "none", "stroke-width": 2, ...attributes });
}

// Lines of {name, points: [[x, y, error?]]}, each with a colour, a dash and its name at its end.
export function linesChart(lines, settings) {
  const all = lines.flatMap((line) => line.points);
  if (!all.length) return null;
  const shown = settings.cut ? all.filter((point) => point[1] >= settings.cut) : all;
  const { svg, x, y } = frameOf({ ...settings, xs: all.map((p) => p[0]), ys: shown.map((p) => p[1]) });
  lines.forEach((line, i) => svg.append(...oneLine(line, i, x, y, settings.cut)));
  return svg;
}

function oneLine({ name, points, marks }, i, x, y, cut = -Infinity) {
  const color = colorOf(i);
  const inside = points.filter((point) => point[1] >= cut);
  const places = inside.map(([a, b]) => [x(a), y(b)]);
  const made = [path(places, { stroke: color, "stroke-dasharray": DASHES[Math.floor(i / 2) % DASHES.length] })];
  if (marks) {
    inside.forEach(([a, b, error]) => {
      if (error) made.push(path([[x(a), y(b - error)], [x(a), y(b + error)]], { stroke: color }));
      made.push(drawing("circle", { cx: x(a), cy: y(b), r: 3, fill: color }));
    });
  }
  return [drawing("g", {}, drawing("title", {}, name), ...made)];
}

export function chartLegend(names) {
  return drawing("svg", { viewBox: `0 0 ${WIDTH} ${20 * names.length + 6}`, role: "img", "aria-label": `lines: ${names.join(", ")}` },
    names.flatMap((name, i) => [
      path([[8, 16 + 20 * i], [42, 16 + 20 * i]], { stroke: colorOf(i), "stroke-dasharray": DASHES[Math.floor(i / 2) % DASHES.length] }),
      words(50, 20 + 20 * i, name),
    ]));
}

function barName(x, name, upright) {
  if (!upright) return words(x, HEIGHT - BOTTOM + 15, name, "middle");
  const made = words(0, 0, name, "end");
  made.setAttribute("transform", `translate(${x + 4} ${HEIGHT - BOTTOM + 6}) rotate(-90)`);
  return made;
}

export function barsChart(names, values, marked, settings) {
  const { svg, y } = frameOf({ ...settings, xs: [0, 1], ys: [0, ...values], bare: true });
  const step = (WIDTH - LEFT - 12) / values.length;
  values.forEach((value, i) => {
    const [left, top] = [LEFT + i * step + step * 0.1, y(Math.max(value, 0))];
    svg.append(drawing("rect", { x: left, y: top, width: step * 0.8, height: Math.abs(y(0) - y(value)), fill: marked[i] ? colorOf(0) : "#8a8f96" },
      drawing("title", {}, `${names[i]}: ${plainNumber(value)}`)));
    if (values.length <= MOST_NAMES) svg.append(barName(left + step * 0.4, names[i], values.length > 10));
  });
  return svg;
}
