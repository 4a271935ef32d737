// The latent map: posterior means, the aggregate posterior and the prior, and a point z that is dragged and decoded.

import { button, choice, columns, element, hint, nats, panel, plainNumber, say, WORDS } from "./elements.js";
import { makeOutput } from "./outputs.js";
import { covarianceOfParts } from "./pair.js";
import { drawMark, legend, sized, styleOf } from "./pictures.js";
import { along, decoded, labelOf, moved, randomOf, rowOfArray } from "./runs.js";

const MARGIN = 34;
const MANY = 3000; // points above which they are drawn fainter
const FRAMES = 9; // of an interpolation
const SHOWN = 30; // sliders at once

export function mapView(app) {
  const run = app.run();
  const [map, made, sliders, path] = [mapPanel, decodedPanel, slidersPanel, pathPanel].map((part) => part(app, run));
  const node = columns([map.node, path.node], [made.node, sliders.node]);
  path.node.classList.add("last"); // on a narrow screen what is decoded comes first
  if (run.data.kind === "image") made.node.classList.add("beside");
  return { node, update: () => [map, made, sliders, path].forEach((part) => part.update()) };
}

function basisOf(app, run) {
  return Object.hasOwn(run.bases, app.state.axes) ? run.bases[app.state.axes] : run.bases.z;
}

function mapPanel(app, run) {
  const { state } = app;
  const canvas = element("canvas", {
    class: "map", tabindex: "0", role: "application", id: "map",
    "aria-label": "Latent map. Arrow keys move z, with shift ten times as far; Enter goes to the nearest datum.",
  });
  const shown = { means: true, aggregate: false, prior: true };
  const map = { app, run, canvas, shown, points: [] };
  listen(map);
  const axes = choice("axes", [["z", "latents"], ["pc", "principal axes"]], state.axes, (axes) =>
    state.set({ axes, across: null, up: null }),
  );
  const pickers = element("div", { class: "row" });
  const switches = [["means", "means of q(z|x)"], ["aggregate", "draws of the aggregate posterior"], ["prior", "draws of the prior"]];
  const boxes = switches.map(([key, words]) => {
    const box = element("input", { type: "checkbox", on: { change: () => { shown[key] = box.checked; redraw(map); } } });
    box.checked = shown[key];
    return element("label", {}, box, words);
  });
  const count = `${run.count.toLocaleString("en")} data, ${run.priorDraws.shape[0].toLocaleString("en")} draws of each`;
  const node = panel(
    "Latent map",
    element("div", { class: "row" }, axes, pickers),
    canvas,
    element("div", { class: "row" }, boxes),
    legend(run),
    element("p", { class: "quiet" }, `${count}. Drag, or use the arrow keys, to move z; click a point to choose its datum. The ellipses are one and two standard deviations of its q(z|x).`),
  );
  new ResizeObserver(() => redraw(map)).observe(canvas);
  function update() {
    pickers.replaceChildren(...(run.latents > 1 ? axisChoices(app, run) : []));
    redraw(map);
  }
  update();
  return { node, update: () => redraw(map) };
}

function axisChoices(app, run) {
  const basis = basisOf(app, run);
  const options = basis.order.map((k) => [String(k), basis.name(k)]);
  const { across, up } = chosenAxes(app, run);
  return [
    choice("across", options, String(across), (k) => app.state.set({ across: Number(k) })),
    choice("up", options, String(up), (k) => app.state.set({ up: Number(k) })),
  ];
}

// The two axes: of latents those that carry most, until others are chosen.
export function chosenAxes(app, run) {
  const [first, second = first] = basisOf(app, run).order;
  const inside = (k, own) => (k === null || k >= run.latents ? own : k);
  return { across: inside(app.state.across, first), up: inside(app.state.up, second) };
}

function redraw(map) {
  const { app, run, canvas } = map;
  const width = canvas.clientWidth;
  if (!width) return;
  const height = Math.min(width, Math.max(260, innerHeight * 0.62));
  const basis = basisOf(app, run);
  const { across, up } = chosenAxes(app, run);
  drawGround(map, width, height, basis, across, up);
  const context = sized(canvas, width, height);
  context.drawImage(map.ground, 0, 0, width, height);
  drawPosterior(context, map, basis, across, up);
  drawCross(context, map, basis, across, up);
}

// Axes, clouds and means stay as they are while z is dragged: they are drawn once, and copied in each frame.
function drawGround(map, width, height, basis, across, up) {
  const { run, shown } = map;
  const { theme } = document.documentElement.dataset;
  const key = [width, height, devicePixelRatio, across, up, theme, shown.means, shown.prior, shown.aggregate].join();
  if (map.key === key) return;
  map.key = key;
  map.ground = element("canvas");
  const context = sized(map.ground, width, height);
  const flat = run.latents === 1; // one latent: data lie in lines by their label
  const lifted = (z, i) => (flat ? (run.labels ? run.labels.values[i] : 0) : along(z, basis, up));
  const place = (array, lift) => Array.from({ length: array.shape[0] }, (_, i) => {
    const z = rowOfArray(array, i);
    return [along(z, basis, across), lift(z, i)];
  });
  const onLine = flat ? () => -1 : lifted;
  const [means, prior, aggregate] = [place(run.mean, lifted), place(run.priorDraws, onLine), place(run.aggregateDraws, onLine)];
  map.scale = scaleOf([...means, ...prior], width, height);
  drawAxes(context, map.scale, width, height, axisName(basis, across), flat ? "" : axisName(basis, up));
  if (shown.prior) drawCloud(context, map.scale, prior, styleOf("--quiet"), 1.3, 0.35);
  if (shown.aggregate) drawCloud(context, map.scale, aggregate, styleOf("--accent"), 1.6, 0.5);
  map.points = means.map(([x, y]) => [map.scale.x(x), map.scale.y(y)]);
  if (shown.means) drawMeans(context, map);
}

function axisName(basis, k) {
  return basis.name(k);
}

function scaleOf(points, width, height) {
  const ends = (d) => {
    let [low, high] = [Infinity, -Infinity];
    for (const point of points) {
      if (point[d] < low) low = point[d];
      if (point[d] > high) high = point[d];
    }
    const room = 0.04 * (high - low) || 1;
    return [low - room, high + room];
  };
  const [left, right] = ends(0);
  const [bottom, top] = ends(1);
  const inner = [width - MARGIN - 8, height - MARGIN - 8];
  return {
    x: (value) => MARGIN + ((value - left) / (right - left)) * inner[0],
    y: (value) => 8 + ((top - value) / (top - bottom)) * inner[1],
    fromX: (pixel) => left + ((pixel - MARGIN) / inner[0]) * (right - left),
    fromY: (pixel) => top - ((pixel - 8) / inner[1]) * (top - bottom),
    ends: [left, right, bottom, top],
  };
}

export function ticksOf(low, high, count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((each) => each >= rough);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) ticks.push(Number(value.toPrecision(12)));
  return ticks;
}

function drawAxes(context, scale, width, height, acrossName, upName) {
  const [left, right, bottom, top] = scale.ends;
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = styleOf("--quiet");
  context.strokeStyle = styleOf("--line");
  context.textAlign = "center";
  for (const tick of ticksOf(left, right)) {
    stroke(context, scale.x(tick), 8, scale.x(tick), height - MARGIN);
    context.fillText(plainNumber(tick), scale.x(tick), height - MARGIN + 13);
  }
  context.fillText(acrossName, (width + MARGIN) / 2, height - 6);
  if (!upName) return;
  context.textAlign = "right";
  for (const tick of ticksOf(bottom, top)) {
    stroke(context, MARGIN, scale.y(tick), width - 8, scale.y(tick));
    context.fillText(plainNumber(tick), MARGIN - 4, scale.y(tick) + 4);
  }
  context.save();
  context.translate(10, height / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(upName, 0, 0);
  context.restore();
}

function stroke(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

function drawCloud(context, scale, points, color, size, alpha) {
  context.globalAlpha = alpha;
  context.fillStyle = color;
  for (const [x, y] of points) context.fillRect(scale.x(x) - size, scale.y(y) - size, 2 * size, 2 * size);
  context.globalAlpha = 1;
}

function drawMeans(context, map) {
  const { run, points } = map;
  context.globalAlpha = run.count > MANY ? 0.3 : 0.8;
  points.forEach(([x, y], i) => drawMark(context, x, y, run.labels ? run.labels.values[i] : 0, 3));
  context.globalAlpha = 1;
  if (run.labels && run.labels.names.length <= 30) drawNames(context, map);
}

// Each label's name at the middle of its points.
function drawNames(context, { run, points }) {
  context.font = "bold 14px system-ui, sans-serif";
  context.textAlign = "center";
  context.lineWidth = 4;
  run.labels.names.forEach((name, label) => {
    const own = points.filter((_, i) => run.labels.values[i] === label);
    if (!own.length) return;
    const [x, y] = [0, 1].map((d) => own.map((p) => p[d]).sort((a, b) => a - b)[Math.floor(own.length / 2)]);
    context.strokeStyle = styleOf("--ground");
    context.strokeText(name, x, y + 5);
    context.fillStyle = styleOf("--text");
    context.fillText(name, x, y + 5);
  });
  context.lineWidth = 1;
}

// q(z|x) of the chosen datum: where it is one and two standard deviations from its mean.
function drawPosterior(context, map, basis, across, up) {
  const { app, run } = map;
  if (run.latents === 1) return;
  const { mean } = app.moments();
  const centre = [along(mean, basis, across), along(mean, basis, up)];
  const [[a, c], [, b]] = spreadOver(app, run, basis.direction(across), basis.direction(up));
  const [one, two] = [Math.sqrt(a), a > 0 ? c / Math.sqrt(a) : 0]; // the covariance's Cholesky factor
  const three = Math.sqrt(Math.max(0, b - two * two));
  context.strokeStyle = styleOf("--text");
  for (const times of [1, 2]) {
    context.beginPath();
    for (let step = 0; step <= 60; step++) {
      const [cos, sin] = [Math.cos((step * Math.PI) / 30), Math.sin((step * Math.PI) / 30)];
      const [x, y] = [centre[0] + times * one * cos, centre[1] + times * (two * cos + three * sin)];
      context.lineTo(map.scale.x(x), map.scale.y(y));
    }
    context.stroke();
  }
}

// The covariance of q(z|x) along two directions, computed once for each datum; of a pair that the page does not run from
// the standard deviations that were computed beforehand.
function spreadOver(app, run, u, v) {
  if (!run.pair) return covarianceOfParts(app.moments().sd, u, v);
  const key = [run, app.state.x, app.datum(), app.state.axes, app.state.across, app.state.up];
  if (!app.spread || app.spread.key.some((part, i) => part !== key[i])) app.spread = { key, found: run.pair.covariance(app.x(), u, v) };
  return app.spread.found;
}

function drawCross(context, map, basis, across, up) {
  const z = map.app.latents();
  const x = map.scale.x(along(z, basis, across));
  const y = map.run.latents === 1 ? map.scale.y(map.scale.ends[2]) - 12 : map.scale.y(along(z, basis, up));
  context.strokeStyle = styleOf("--mark");
  context.lineWidth = 2.5;
  stroke(context, x - 11, y, x + 11, y);
  stroke(context, x, y - 11, x, y + 11);
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.stroke();
  context.lineWidth = 1;
}

function listen(map) {
  const { app, run, canvas } = map;
  let from = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    from = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from) moveTo(map, at(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const now = at(event);
    const still = Math.hypot(now[0] - from[0], now[1] - from[1]) < 4;
    from = null;
    if (still) choosePoint(map, now, 8) || moveTo(map, now);
    sayDecoded(app, run);
  });
  canvas.addEventListener("pointercancel", () => (from = null));
  canvas.addEventListener("keydown", (event) => press(map, event));
}

function moveTo(map, [x, y]) {
  const { app, run } = map;
  const basis = basisOf(app, run);
  const { across, up } = chosenAxes(app, run);
  let z = moved(app.latents(), basis, across, map.scale.fromX(x));
  if (run.latents > 1 && across !== up) z = moved(z, basis, up, map.scale.fromY(y));
  app.state.set({ z });
}

// Choose the datum whose mean is nearest to a place, if it is within so many pixels.
function choosePoint(map, [x, y], within) {
  let [best, distance] = [-1, within];
  map.points.forEach(([a, b], i) => {
    const away = Math.hypot(a - x, b - y);
    if (away < distance) [best, distance] = [i, away];
  });
  if (best >= 0) map.app.chooseDatum(best);
  return best >= 0;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(map, event) {
  const { app, run } = map;
  const basis = basisOf(app, run);
  const { across, up } = chosenAxes(app, run);
  const here = [map.scale.x(along(app.latents(), basis, across)), map.scale.y(along(app.latents(), basis, up))];
  if (event.key === "Enter") choosePoint(map, here, Infinity);
  if (!(event.key in ARROWS)) return;
  event.preventDefault();
  const [dx, dy] = ARROWS[event.key].map((step) => step * (event.shiftKey ? 30 : 3));
  moveTo(map, [here[0] + dx, here[1] + dy]);
  sayDecoded(app, run);
}

function sayDecoded(app, run) {
  const z = app.latents();
  say(`z is ${Array.from(z.slice(0, 4), (value) => nats(value)).join(", ")}${run.latents > 4 ? ", and more" : ""}`);
}

function decodedPanel(app, run) {
  const output = makeOutput(app, run, "what the model makes of z");
  const draw = button("Draw from the prior", () => {
    if (!run.pair) return app.state.set({ z: Float64Array.from(rowOfArray(run.priorDraws, app.nextDraw(run.priorDraws.shape[0]))) });
    const seed = app.state.seed + 1;
    app.state.set({ seed });
    return app.state.set({ z: run.pair.prior(randomOf(app.state)) });
  });
  const back = button("Mean of q(z|x)", () => app.state.set({ z: Float64Array.from(app.moments().mean) }));
  const words = element("p", { class: "quiet", id: "readout" });
  const warning = run.spec.not_live ? element("p", { class: "warning" }, run.spec.not_live) : null;
  const node = panel("Decoded", warning, output.node, words, element("div", { class: "row" }, draw, back));
  function update() {
    const z = app.latents();
    output.show(z, decoded(run, z));
    words.textContent = `z = (${Array.from(z.slice(0, 8), (value) => nats(value)).join(", ")}${run.latents > 8 ? ", …" : ""})`;
  }
  update();
  return { node, update };
}

function slidersPanel(app, run) {
  const order = run.order.slice(0, SHOWN);
  const sliders = order.map((k) => slider(app, run, k));
  const more = run.latents > SHOWN ? element("p", { class: "quiet" }, `The ${run.latents - SHOWN} that carry least have no slider.`) : null;
  const active = run.spec.active.filter(Boolean).length;
  const node = panel(
    "Latents",
    element("p", { class: "quiet" }, `${active} of ${run.latents} are active, those that carry most first. `, hint("active", WORDS.active)),
    element("div", { class: "sliders" }, sliders.map((each) => each.node)),
    more,
  );
  return { node, update: () => sliders.forEach((each) => each.update()) };
}

function slider(app, run, k) {
  const [low, high] = rangeOf(run, k);
  const name = run.spec.dimensions[k];
  const amount = run.spec.kl ? `KL ${run.weight[k].toFixed(2)}` : `var ${run.weight[k].toFixed(2)}`;
  const input = element("input", {
    type: "range", min: low, max: high, step: "any", "aria-label": `${name}, ${amount}`,
    on: { input: () => app.state.set({ z: app.latents().with(k, Number(input.value)) }) },
  });
  input.addEventListener("keydown", (event) => stepped(event, input, (high - low) / 100));
  const output = element("output");
  const node = element("div", { class: run.spec.active[k] ? "slider" : "slider inactive" },
    element("span", { class: "name" }, run.spec.active[k] ? "● " : "○ ", name, ` ${amount}`), input, output);
  function update() {
    const value = app.latents()[k];
    input.value = value;
    output.textContent = nats(value);
  }
  update();
  return { node, update };
}

// All means, and all but the outermost draws of the prior, which may have heavy tails.
function rangeOf(run, k) {
  const of = (array) => Array.from({ length: array.shape[0] }, (_, i) => rowOfArray(array, i)[k]).sort((a, b) => a - b);
  const [means, draws] = [of(run.mean), of(run.priorDraws)];
  const out = Math.floor(0.002 * draws.length);
  return [Math.min(means[0], draws[out]), Math.max(means.at(-1), draws.at(-1 - out))];
}

// Arrow keys by a hundredth of the range: with a step of "any" browsers differ.
function stepped(event, input, step) {
  const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  input.value = Number(input.value) + by * step;
  input.dispatchEvent(new Event("input"));
}

function pathPanel(app, run) {
  const strip = element("div", { class: "strip" });
  const share = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, "aria-label": "how far from the one to the other",
    on: { input: () => app.state.set({ z: between(app, run, Number(share.value)) }) } });
  const words = element("p", { class: "quiet" });
  const other = element("input", { type: "number", min: 0, max: run.count - 1, "aria-label": "number of the other datum", id: "to",
    on: { change: () => app.state.set({ to: Math.min(run.count - 1, Math.max(0, Math.round(Number(other.value)) || 0)) }) } });
  const frames = Array.from({ length: FRAMES }, (_, i) => frame(app, run, i / (FRAMES - 1)));
  strip.append(...frames.map((each) => each.node));
  const same = button("Take the chosen one", () => app.state.set({ to: app.datum() }));
  const node = panel("Between two data", element("div", { class: "row" }, element("label", {}, "other datum, from 0", other), same), share, strip, words);
  let shown = "";
  function update() {
    const key = `${app.datum()} ${app.state.to}`;
    if (key === shown) return;
    shown = key;
    other.value = app.other();
    frames.forEach((each) => each.update());
    const [one, two] = [app.datum(), app.other()].map((i) => `${run.data.rows[i]}${labelOf(run, i) ? ` (${labelOf(run, i)})` : ""}`);
    words.textContent = `On the straight line between the means of q(z|x) of ${one} and ${two}.`;
  }
  update();
  return { node, update };
}

function between(app, run, share) {
  const [one, two] = [app.datum(), app.other()].map((i) => rowOfArray(run.mean, i));
  return Float64Array.from(one, (value, k) => value + share * (two[k] - value));
}

function frame(app, run, share) {
  const output = makeOutput(app, run, `${Math.round(100 * share)} % of the way`, true);
  const node = button(output.node, () => app.state.set({ z: between(app, run, share) }), { "aria-label": `go ${Math.round(100 * share)} % of the way` });
  node.style.padding = "2px";
  const update = () => {
    const z = between(app, run, share);
    output.show(z, decoded(run, z));
  };
  return { node, update };
}

