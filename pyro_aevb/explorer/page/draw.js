// A picture drawn with mouse, finger or keys, at the data's own resolution.

import { button, choice, element, panel } from "./elements.js";
import { colorOf, drawPicture, pictureCanvas } from "./pictures.js";

const UNDONE = 50; // that can be undone

export function makeEditor(app, run) {
  const canvas = pictureCanvas(run, "");
  canvas.id = "editor";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Draw here. Arrow keys move a pen, space paints, delete wipes.");
  canvas.style.cursor = "crosshair";
  const editor = { app, run, canvas, pen: 1, value: run.data.high, before: [], at: middle(run), keyed: false };
  const undo = button("Undo", () => step(editor, editor.before.pop()));
  const clear = button("Clear", () => change(editor, new Float64Array(run.size).fill(run.data.low)));
  const start = button("Begin from the chosen datum", () => change(editor, Float64Array.from(app.x())));
  const pen = choice("pen", [["0", "one pixel"], ["1", "thin"], ["2", "thick"]], "1", (width) => (editor.pen = Number(width)));
  const tool = choice("with", [["high", "ink"], ["low", "rubber"]], "high", (which) => (editor.value = run.data[which]));
  listenTo(editor);
  const words = run.isBinary
    ? "The model's data are black and white, so that each pixel is one or the other."
    : "Thin and thick pens are softer at their edge, as the data's own lines are.";
  const node = panel("Draw your own", canvas, element("div", { class: "row" }, tool, pen, clear, undo, start), element("p", { class: "quiet" }, words));
  showEditor(editor);
  return { node, update: (keys) => (keys.includes("x") || keys.includes("datum")) && showEditor(editor) };
}

function middle(run) {
  const [height, width] = run.data.shape;
  return [Math.floor(width / 2), Math.floor(height / 2)];
}

function blank(editor) {
  return editor.app.state.x ?? new Float64Array(editor.run.size).fill(editor.run.data.low);
}

function showEditor(editor) {
  drawPicture(editor.canvas, editor.run, blank(editor));
  if (!editor.keyed) return;
  const context = editor.canvas.getContext("2d");
  context.strokeStyle = colorOf(1);
  context.strokeRect(editor.at[0] - 0.5, editor.at[1] - 0.5, 2, 2);
}

function change(editor, x) {
  editor.before = [...editor.before, Float64Array.from(blank(editor))].slice(-UNDONE);
  editor.app.state.set({ x, z: null });
}

function step(editor, x) {
  if (x) editor.app.state.set({ x, z: null });
}

function pixelOf(editor, event) {
  const box = editor.canvas.getBoundingClientRect();
  const [height, width] = editor.run.data.shape;
  return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
}

function listenTo(editor) {
  const { canvas } = editor;
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    editor.before = [...editor.before, Float64Array.from(blank(editor))].slice(-UNDONE);
    last = pixelOf(editor, event);
    editor.keyed = false;
    paint(editor, last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const now = pixelOf(editor, event);
    paint(editor, last, now);
    last = now;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
  canvas.addEventListener("keydown", (event) => pressed(editor, event));
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressed(editor, event) {
  const [height, width] = editor.run.data.shape;
  const move = MOVES[event.key];
  const paints = event.key === " " || event.key === "Delete";
  if (!move && !paints) return;
  event.preventDefault();
  editor.keyed = true;
  if (move) editor.at = [(editor.at[0] + move[0] + width) % width, (editor.at[1] + move[1] + height) % height];
  if (!paints) return showEditor(editor);
  editor.before = [...editor.before, Float64Array.from(blank(editor))].slice(-UNDONE);
  const centre = editor.at.map((place) => place + 0.5);
  return paint(editor, centre, centre, event.key === "Delete" ? editor.run.data.low : editor.value);
}

// A line from one place to another, as wide as the pen.
function paint(editor, from, to, value = editor.value) {
  const { run } = editor;
  const [height, width, channels = 1] = run.data.shape;
  const x = Float64Array.from(blank(editor));
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const share = cover(editor, distance([column + 0.5, row + 0.5], from, to));
      if (!share) continue;
      for (let c = 0; c < channels; c++) {
        const pixel = row * width + column;
        const place = run.data.order === "first" && channels === 3 ? c * width * height + pixel : pixel * channels + c;
        const mixed = x[place] + share * (value - x[place]);
        x[place] = Math.abs(mixed - value) < Math.abs(x[place] - value) ? mixed : x[place];
      }
    }
  }
  editor.app.state.set({ x, z: null });
}

function distance([px, py], [ax, ay], [bx, by]) {
  const square = (bx - ax) ** 2 + (by - ay) ** 2;
  const share = square ? Math.min(1, Math.max(0, ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / square)) : 0;
  return Math.hypot(px - ax - share * (bx - ax), py - ay - share * (by - ay));
}

// How much of a pixel the pen covers, by its distance from the line.
function cover(editor, away) {
  if (editor.pen === 0) return away < 0.71 ? 1 : 0;
  const soft = Math.min(1, Math.max(0, editor.pen + 0.5 - away));
  return editor.run.isBinary ? Number(soft >= 0.5) : soft;
}
