// Pictures of data, and marks of labels, on canvases.

import { element } from "./elements.js";

// Okabe and Ito's colours, and the same hues lighter for a dark ground.
const ON_LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f"];
const ON_DARK = ["#4aa3df", "#ff8a4c", "#3cc79a", "#e3a3c6", "#f0b63c", "#9fd8f7", "#b0b0b0"];
const SHAPES = ["circle", "square", "triangle", "diamond", "cross"];

export function styleOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas of as many device pixels as it has room for, drawn in CSS pixels.
export function sized(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

export function pictureCanvas(run, label, small = false) {
  const [height, width] = run.data.shape;
  return element("canvas", { class: small ? "picture small" : "picture", width, height, role: "img", "aria-label": label });
}

export function drawPicture(canvas, run, values) {
  const [height, width, channels = 1] = run.data.shape;
  const { low, high, order } = run.data;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const level = (value) => (255 * (value - low)) / (high - low || 1);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      const channel = channels === 3 ? c : 0;
      const place = channels === 3 && order === "first" ? channel * width * height + i : i * channels + channel;
      image.data[4 * i + c] = values[place] === values[place] ? level(values[place]) : 128;
    }
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

export function colorOf(label) {
  const colors = document.documentElement.dataset.theme === "dark" ? ON_DARK : ON_LIGHT;
  return label < 0 ? "#8a8f96" : colors[label % colors.length];
}

// A label's mark: another colour for each of seven, another shape for each seven.
export function drawMark(context, x, y, label, size) {
  const shape = SHAPES[Math.floor(Math.max(label, 0) / ON_LIGHT.length) % SHAPES.length];
  context.beginPath();
  if (shape === "circle") context.arc(x, y, size, 0, 2 * Math.PI);
  if (shape === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
  if (shape === "triangle") polygon(context, [[x, y - size], [x + size, y + size], [x - size, y + size]]);
  if (shape === "diamond") polygon(context, [[x, y - 1.3 * size], [x + size, y], [x, y + 1.3 * size], [x - size, y]]);
  if (shape === "cross") {
    context.rect(x - size, y - size / 3, 2 * size, (2 * size) / 3);
    context.rect(x - size / 3, y - size, (2 * size) / 3, 2 * size);
  }
  context.fillStyle = colorOf(label);
  context.fill();
}

function polygon(context, points) {
  context.moveTo(...points[0]);
  points.slice(1).forEach((point) => context.lineTo(...point));
  context.closePath();
}

export function legend(run) {
  if (!run.labels) return null;
  const items = run.labels.names.map((name, i) => {
    const canvas = element("canvas", { width: 32, height: 32, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    drawMark(context, 16, 16, i, 11);
    return element("li", {}, canvas, name);
  });
  return element("ul", { class: "legend", "aria-label": `marks of ${run.labels.name}` }, items);
}
