// The page: its head and views, what is chosen, and one drawing for each frame.

import { compareView } from "./compare.js";
import { datumView } from "./datum.js";
import { choice, element, nats, button } from "./elements.js";
import { mapView } from "./map.js";
import { openRun, rowOfArray } from "./runs.js";
import { makeState } from "./state.js";
import { trainingView } from "./training.js";

const VIEWS = { map: ["Latent map", mapView], datum: ["A datum", datumView], training: ["Training", trainingView], runs: ["Runs", compareView] };

function start() {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const app = { payload, runs: payload.runs.map(openRun), waiting: null, drawn: 0 };
  app.state = makeState((keys) => changed(app, keys));
  app.run = () => app.runs[Math.min(app.state.run, app.runs.length - 1)];
  app.datum = () => Math.min(app.state.datum, app.run().count - 1);
  app.other = () => Math.min(app.state.to, app.run().count - 1);
  app.latents = () => latentsOf(app);
  app.moments = () => momentsOf(app);
  app.x = () => ownDatum(app) ?? rowOfArray(app.run().x, app.datum());
  app.chooseDatum = (datum) => app.state.set({ datum, x: null, z: Float64Array.from(rowOfArray(app.run().mean, datum)) });
  app.nextDraw = (count) => app.drawn++ % count;
  window.explorer = { payload, runs: app.runs, state: app.state };
  head(app);
  foot(app);
  show(app);
}

function latentsOf(app) {
  const { z } = app.state;
  const right = z && z.length === app.run().latents && z.every(Number.isFinite);
  return right ? z : Float64Array.from(app.moments().mean);
}

// Mean and standard deviation of q(z|x): of a datum of one's own computed here, once for each.
function momentsOf(app) {
  const run = app.run();
  const x = ownDatum(app);
  if (!x) return { mean: rowOfArray(run.mean, app.datum()), sd: rowOfArray(run.sd, app.datum()) };
  if (app.encoded?.x !== x || app.encoded.run !== run) app.encoded = { x, run, moments: run.pair.encode(x) };
  return app.encoded.moments;
}

// A datum that was drawn or typed, if it is one of this run's: of another it may have other columns, or no gaps.
function ownDatum(app) {
  const { x } = app.state;
  const run = app.run();
  const right = x && run.pair && x.length === run.size && x.every((value) => Number.isFinite(value) || run.hasGaps);
  return right ? x : null;
}

function changed(app, keys) {
  if (keys.some((key) => key === "view" || key === "run" || key === "axes")) return show(app);
  if (app.waiting) return app.waiting.push(...keys);
  app.waiting = [...keys];
  return requestAnimationFrame(() => {
    const all = app.waiting;
    app.waiting = null;
    if (all) app.view.update(all); // else the whole view was made anew meanwhile
  });
}

function show(app) {
  const name = Object.hasOwn(VIEWS, app.state.view) ? app.state.view : "map";
  const focused = document.activeElement?.id;
  document.querySelectorAll("nav button").forEach((tab) => {
    const own = tab.dataset.view === name;
    tab.setAttribute("aria-selected", String(own));
    tab.tabIndex = own ? 0 : -1;
  });
  document.getElementById("title").textContent = app.run().spec.title;
  const picker = document.getElementById("run");
  if (picker) picker.value = String(app.runs.indexOf(app.run()));
  app.waiting = null;
  app.view = VIEWS[name][1](app);
  document.getElementById("main").replaceChildren(app.view.node);
  document.getElementById("main").setAttribute("aria-label", VIEWS[name][0]);
  if (focused) document.getElementById(focused)?.focus();
  foot(app);
}

function head(app) {
  const title = element("h1", { id: "title" });
  const options = app.runs.map((run, i) => [String(i), run.name]);
  const picker = choice("run", options, "0", (i) => app.state.set({ run: Number(i), z: null, x: null }));
  picker.querySelector("select").id = "run";
  const theme = button("", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark", app), { id: "theme" });
  const tabs = Object.entries(VIEWS).map(([view, [words]]) => button(words, () => app.state.set({ view }), { role: "tab", "data-view": view, "aria-controls": "main", id: `tab-${view}` }));
  const bar = element("nav", { role: "tablist", "aria-label": "views", on: { keydown: (event) => turnTabs(event, tabs) } }, tabs);
  document.getElementById("head").replaceChildren(element("div", { class: "bar" }, title, app.runs.length > 1 ? picker : null, theme), bar);
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light", app));
}

function turnTabs(event, tabs) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  const next = tabs[(tabs.indexOf(document.activeElement) + by + tabs.length) % tabs.length];
  next.click();
  next.focus();
}

function setTheme(name, app) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light colours" : "Dark colours";
  if (app) show(app);
}

function foot(app) {
  const { rounding, weights_dtype: dtype } = app.run().spec;
  const cost = rounding
    ? `Weights are rounded to ${dtype} in this page: this changes the bound by ${nats(rounding.difference, 5)} ± ${nats(rounding.se, 5)} nats per datum (mean over ${rounding.count} data at the same noise; by ${nats(rounding.largest, 5)} at most). `
    : "";
  const live = app.run().pair ? `${cost}What moves is computed here, from the run's own model and guide.` : app.run().spec.not_live;
  document.getElementById("foot").replaceChildren(element("p", { id: "rounding" }, live), element("p", {}, `Made with ${app.payload.made_with}; nothing is loaded from elsewhere, and nothing leaves this page.`));
}

start();
