// What a model makes of z, shown as a picture or, of a table, column by column with intervals.

import { element, plainNumber } from "./elements.js";
import { makeRandom } from "./numerics.js";
import { drawPicture, pictureCanvas } from "./pictures.js";
import { rowOfArray } from "./runs.js";

const INTERVAL_DRAWS = 200; // of p(x|z) behind an interval
const INTERVAL_LEVEL = 0.9;
const MOST_COLUMNS = 40; // columns shown

export function makeOutput(app, run, label, small = false) {
  if (run.data.kind === "image") {
    const canvas = pictureCanvas(run, label, small);
    return { node: canvas, show: (z, values) => drawPicture(canvas, run, values) };
  }
  return small ? shortOutput(run) : columnsOutput(app, run);
}

// Of a table's row in a strip: its first numbers alone.
function shortOutput(run) {
  const node = element("span", { class: "quiet" });
  const columns = run.data.columns.slice(0, 3);
  const show = (z, values) => {
    node.textContent = columns.map((column) => `${column.name} ${valueOf(column, values[column.places[0]])}`).join(", ");
  };
  return { node, show };
}

export function valueOf(column, value) {
  if (Number.isNaN(value)) return "missing";
  if (column.categories) return column.categories[Math.round(value)] ?? plainNumber(value);
  return plainNumber(value);
}

function columnsOutput(app, run) {
  const columns = run.data.columns.slice(0, MOST_COLUMNS);
  const lines = columns.map((column) => (column.kind === "category" ? chancesLine(column) : intervalLine(column)));
  const more = run.data.columns.length - MOST_COLUMNS;
  const words = run.pair?.observe
    ? `The mean of p(x|z), and the middle ${100 * INTERVAL_LEVEL} % of ${INTERVAL_DRAWS} draws of p(x|z); ◆ is the chosen row's own value.`
    : "The mean of p(x|z); ◆ is the chosen row's own value.";
  const node = element("div", {}, lines.map((each) => each.node), element("p", { class: "quiet" }, words, more > 0 ? ` The first ${MOST_COLUMNS} of ${run.data.columns.length} columns.` : ""));
  const show = (z, values) => {
    const around = run.pair?.observe ? run.pair.interval(z, makeRandom(1), INTERVAL_DRAWS, INTERVAL_LEVEL) : null;
    const own = app.state.x ?? rowOfArray(run.x, app.datum());
    columns.forEach((column, i) => lines[i].show(column.places[0], values, around, own));
  };
  return { node, show };
}

function chancesLine(column) {
  const bars = column.categories.map((name) => {
    const bar = element("i");
    const share = element("span");
    const title = element("span", {}, name);
    return { bar, share, title, node: element("div", { class: "chance" }, title, element("span", {}, bar), share) };
  });
  const node = element("div", { class: "column" }, element("span", {}, column.name), element("div", {}, bars.map((each) => each.node)));
  const show = (place, values, around, own) => {
    bars.forEach((each, category) => {
      const share = around ? shareOf(around.draws, place, category) : Number(Math.round(values[place]) === category);
      each.bar.style.width = `${100 * share}%`;
      each.share.textContent = `${Math.round(100 * share)} %`;
      each.title.textContent = `${own[place] === category ? "◆ " : ""}${column.categories[category]}`;
    });
  };
  return { node, show };
}

function shareOf(draws, place, category) {
  return draws.filter((draw) => Math.round(draw[place]) === category).length / draws.length;
}

function intervalLine(column) {
  const canvas = element("canvas", { width: 300, height: 22, "aria-hidden": "true" });
  const value = element("span", { class: "value" });
  const node = element("div", { class: "column" }, element("span", {}, column.name), element("div", {}, canvas, value));
  const show = (place, values, around, own) => {
    const ends = around && column.kind !== "binary" ? [around.low[place], around.high[place]] : null;
    drawInterval(canvas, column, values[place], ends, own[place]);
    const middle = column.kind === "binary" ? `probability ${plainNumber(values[place])}` : plainNumber(values[place]);
    const between = ends ? `, ${plainNumber(ends[0])} to ${plainNumber(ends[1])}` : "";
    value.textContent = `${middle}${between}; row: ${valueOf(column, own[place])}`;
  };
  return { node, show };
}

function drawInterval(canvas, column, mean, ends, own) {
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const [low, high] = column.kind === "binary" ? [0, 1] : [column.low ?? 0, column.high ?? 1];
  const x = (value) => 8 + (284 * (Math.min(Math.max(value, low), high) - low)) / (high - low || 1);
  context.clearRect(0, 0, 300, 22);
  context.fillStyle = style.getPropertyValue("--line");
  context.fillRect(8, 10, 284, 2);
  context.fillStyle = style.getPropertyValue("--accent");
  if (ends) context.fillRect(x(ends[0]), 7, Math.max(2, x(ends[1]) - x(ends[0])), 8);
  context.fillStyle = style.getPropertyValue("--text");
  context.fillRect(x(mean) - 1.5, 3, 3, 16);
  if (own !== own) return;
  context.fillStyle = style.getPropertyValue("--mark");
  context.beginPath();
  [[0, -6], [6, 0], [0, 6], [-6, 0]].forEach(([dx, dy]) => context.lineTo(x(own) + dx, 11 + dy));
  context.fill();
}
