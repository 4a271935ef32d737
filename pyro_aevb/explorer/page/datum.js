// One datum: chosen from a sortable table, drawn with the mouse, or typed; and what the pair makes of it.

import { button, columns, element, hint, nats, panel, renew, say, withError, WORDS } from "./elements.js";
import { makeEditor } from "./draw.js";
import { makeForm } from "./form.js";
import { makeRandom } from "./numerics.js";
import { makeOutput } from "./outputs.js";
import { drawPicture, pictureCanvas, sized, styleOf } from "./pictures.js";
import { decoded, labelOf, reconstructed, rowOfArray } from "./runs.js";

const PAGE = 25;
const FEW_DRAWS = 20; // draws while somebody draws
const MANY_DRAWS = 500; // draws once they rest
const AT_REST = 350; // milliseconds
const TRUSTED = 0.7; // of k-hat
const RELIABLE = 10; // effective samples, below which log p(x) is a guess

export function datumView(app) {
  const run = app.run();
  const parts = [resultPanel, posteriorPanel, ownPanel, tablePanel].map((part) => part(app, run));
  const [result, posterior, own, table] = parts.map((part) => part.node);
  const node = columns([result, posterior], [own, table]);
  return { node, update: (keys) => parts.forEach((part) => part.update(keys)) };
}

// ---------------------------------------------------------------- the table

function columnsOf(run) {
  const listed = [
    ["row", (i) => run.data.rows[i], (i) => i],
    ["bound", (i) => nats(run.bound[i]), (i) => run.bound[i], WORDS.bound],
    ["log p(x)", (i) => withError(run.log_likelihood[i], run.log_likelihood_se[i]), (i) => run.log_likelihood[i], WORDS.evidence],
    ["k-hat", (i) => `${nats(run.k_hat[i])}${run.k_hat[i] > TRUSTED ? " ⚠" : ""}`, (i) => run.k_hat[i], WORDS.khat],
  ];
  if (run.labels) listed.splice(1, 0, [run.labels.name, (i) => labelOf(run, i), (i) => run.labels.values[i]]);
  return listed;
}

function tablePanel(app, run) {
  const listed = columnsOf(run);
  const table = { app, run, columns: listed, by: 0, down: false, first: 0, order: [...Array(run.count).keys()] };
  table.body = element("tbody");
  table.heads = listed.map(([name], c) => element("th", { scope: "col" }, button(name, () => sortBy(table, c))));
  table.place = element("span", { class: "quiet" });
  const turn = (by) => () => {
    table.first = Math.min(Math.max(0, table.first + by), Math.max(0, run.count - 1));
    fill(table);
  };
  const whole = element("table", { id: "data" }, element("caption", { class: "unseen" }, "data, one a line; choose one by its button"),
    element("thead", {}, element("tr", {}, table.heads)), table.body);
  const node = panel(`${run.count.toLocaleString("en")} ${run.data.split} data`, element("div", { class: "scroll" }, whole),
    element("div", { class: "row" }, button("Before", turn(-PAGE)), button("After", turn(PAGE)), table.place),
    element("p", { class: "quiet" }, `log p(x) from ${run.data.num_samples} importance samples, with the run's own weights, in nats. `,
      hint("k-hat", WORDS.khat), " ", hint("the bound", WORDS.bound), " ", hint("log p(x)", WORDS.evidence)));
  showChosen(table);
  fill(table);
  return { node, update: (keys) => keys.includes("datum") && fill(table) };
}

// Turn to the page on which the chosen datum is.
function showChosen(table) {
  table.first = Math.floor(table.order.indexOf(table.app.datum()) / PAGE) * PAGE;
}

function sortBy(table, column) {
  table.down = table.by === column ? !table.down : column > 0;
  table.by = column;
  const value = table.columns[column][2];
  const known = (i) => (Number.isNaN(value(i)) ? Infinity : value(i));
  table.order.sort((a, b) => (table.down ? known(b) - known(a) : known(a) - known(b)) || a - b);
  table.first = 0;
  fill(table);
  say(`sorted by ${table.columns[column][0]}, ${table.down ? "largest" : "smallest"} first`);
}

function fill(table) {
  const { app, run } = table;
  table.heads.forEach((head, c) => head.setAttribute("aria-sort", c !== table.by ? "none" : table.down ? "descending" : "ascending"));
  const shown = table.order.slice(table.first, table.first + PAGE);
  const focused = table.body.contains(document.activeElement) ? document.activeElement.textContent : null;
  table.body.replaceChildren(...shown.map((i) => lineOf(app, run, table.columns, i)));
  if (focused !== null) [...table.body.querySelectorAll("button")].find((each) => each.textContent === focused)?.focus();
  table.place.textContent = `${table.first + 1} to ${table.first + shown.length} of ${run.count.toLocaleString("en")}`;
}

function lineOf(app, run, listed, i) {
  const chosen = !app.state.x && i === app.datum();
  const cells = listed.map(([, words], c) => element("td", {}, c ? words(i) : button(words(i), () => app.chooseDatum(i), { "aria-pressed": String(chosen) })));
  return element("tr", { "aria-selected": String(chosen) }, cells);
}

// ---------------------------------------------------------------- a datum of one's own

function ownPanel(app, run) {
  if (!run.pair) return { node: panel("Your own datum", element("p", { class: "warning" }, run.spec.not_live)), update: () => {} };
  return run.data.kind === "image" ? makeEditor(app, run) : makeForm(app, run);
}

// ---------------------------------------------------------------- what the pair makes of it

function resultPanel(app, run) {
  const own = run.data.kind === "image" ? pictureCanvas(run, "the datum") : null;
  const output = makeOutput(app, run, "its reconstruction, the mean of p(x|z) at the mean of q(z|x)");
  const live = element("div", { id: "live", "aria-live": "off" });
  const stored = element("div");
  const again = run.pair ? button("Other draws", () => app.state.set({ seed: app.state.seed + 1 })) : null;
  const pictures = element("div", { class: "panels" },
    own ? element("figure", { style: "margin:0" }, own, element("figcaption", {}, "the datum")) : null,
    element("figure", { style: "margin:0" }, output.node, element("figcaption", {}, "its reconstruction")));
  const node = panel("What the pair makes of it", pictures, live, again ? element("div", { class: "row" }, again) : null, stored);
  let later = 0;
  function update() {
    const x = app.x();
    if (own) drawPicture(own, run, x);
    const mean = run.pair ? run.pair.encode(x).mean : rowOfArray(run.mean, app.datum());
    output.show(mean, run.pair ? decoded(run, mean) : reconstructed(run, app.datum()));
    showStored(app, run, stored);
    clearTimeout(later);
    if (!run.pair) return;
    showLive(app, run, live, FEW_DRAWS);
    later = setTimeout(() => showLive(app, run, live, MANY_DRAWS), AT_REST);
  }
  update();
  return { node, update: (keys) => keys.some((key) => ["datum", "x", "seed"].includes(key)) && update() };
}

function showLive(app, run, place, count) {
  const x = app.x();
  const found = run.pair.logEvidence(x, count, makeRandom(app.state.seed));
  const kl = run.pair.kl(x);
  const rows = [
    ["bound", withError(found.bound, found.boundSe), WORDS.bound],
    ["log p(x)", withError(found.value, found.se), WORDS.evidence],
    ["log p(x|z), mean of draws", withError(found.likelihood, found.likelihoodSe), WORDS.reconstruction],
    [kl ? "KL, exact" : "KL, mean of draws", kl ? nats(kl.total) : withError(found.divergence, found.divergenceSe), WORDS.kl],
    ["effective samples", `${nats(found.ess, 1)} of ${count}${found.ess < RELIABLE ? " ⚠ few" : ""}`, WORDS.effective],
  ];
  renew(place, `In this page, from ${count} draws of seed ${app.state.seed}, in nats`, rows);
  place.dataset.count = count;
  if (count === MANY_DRAWS) say(`bound ${nats(found.bound)}, log p of x ${nats(found.value)} nats`);
}

function showStored(app, run, place) {
  if (app.state.x) {
    delete place.dataset.names;
    return place.replaceChildren(element("p", { class: "quiet" }, "This datum is your own, so that nothing was computed beforehand."));
  }
  const i = app.datum();
  const rows = [
    ["bound", nats(run.bound[i])],
    ["log p(x)", withError(run.log_likelihood[i], run.log_likelihood_se[i])],
    ["log p(x|z), mean of draws", nats(run.reconstruction[i])],
    ["KL", nats(run.kl[i])],
    ["k-hat", `${nats(run.k_hat[i])}${run.k_hat[i] > TRUSTED ? " ⚠ above 0.7" : ""}`, WORDS.khat],
  ];
  return renew(place, "Computed beforehand, with the run's own weights, in nats", rows);
}

// ---------------------------------------------------------------- q(z|x), latent by latent

const STRIPS = 12;
const POINTS = 200;

function posteriorPanel(app, run) {
  const order = run.order.slice(0, STRIPS);
  const canvas = element("canvas", { class: "map", role: "img", "aria-label": "q(z|x) of each latent dimension: draws, mean and two standard deviations, above draws of the prior" });
  const node = panel("q(z|x), latent by latent", canvas,
    element("p", { class: "quiet" }, `Above each line ${run.pair ? `${POINTS} draws of ` : ""}q(z|x) with mean and two standard deviations, below it draws of the prior.`,
      run.latents > STRIPS ? ` The ${STRIPS} of ${run.latents} that carry most.` : ""));
  canvas.style.cursor = "default";
  function update() {
    const x = app.x();
    const moments = run.pair ? run.pair.encode(x) : { mean: rowOfArray(run.mean, app.datum()), sd: rowOfArray(run.sd, app.datum()) };
    const random = makeRandom(app.state.seed);
    const draws = run.pair ? Array.from({ length: POINTS }, () => run.pair.posterior(x, random).z) : [];
    drawStrips(canvas, run, order, moments, draws);
  }
  new ResizeObserver(update).observe(canvas);
  return { node, update: (keys) => keys.some((key) => ["datum", "x", "seed"].includes(key)) && update() };
}

function drawStrips(canvas, run, order, { mean, sd }, draws) {
  const width = canvas.clientWidth;
  if (!width) return;
  const context = sized(canvas, width, 40 * order.length + 10);
  context.font = "12px system-ui, sans-serif";
  order.forEach((k, line) => {
    const prior = Array.from({ length: Math.min(POINTS, run.priorDraws.shape[0]) }, (_, i) => rowOfArray(run.priorDraws, i)[k]);
    const own = draws.map((z) => z[k]);
    const all = [...prior, ...own, mean[k] - 2 * sd[k], mean[k] + 2 * sd[k]];
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const x = (value) => 70 + ((width - 80) * (value - low)) / (high - low || 1);
    const y = 40 * line + 24;
    strip(context, x, y, own, prior, mean[k], sd[k]);
    context.fillStyle = styleOf("--text");
    context.fillText(run.spec.dimensions[k], 4, y + 4);
  });
}

function strip(context, x, y, own, prior, mean, sd) {
  context.globalAlpha = 0.35;
  context.fillStyle = styleOf("--quiet");
  for (const value of prior) context.fillRect(x(value) - 1, y + 2, 2, 9);
  context.fillStyle = styleOf("--accent");
  for (const value of own) context.fillRect(x(value) - 1, y - 13, 2, 9);
  context.globalAlpha = 1;
  context.fillStyle = styleOf("--mark");
  context.fillRect(x(mean - 2 * sd), y - 2, Math.max(2, x(mean + 2 * sd) - x(mean - 2 * sd)), 3);
  context.fillRect(x(mean) - 1.5, y - 6, 3, 11);
}
