// Several runs: what they differ in, and their differences over the same data.

import { element, hint, panel, withError, WORDS } from "./elements.js";

const MEASURED = [["bound", "bound", WORDS.bound], ["log p(x)", "log_likelihood", WORDS.evidence], ["log p(x|z)", "reconstruction", WORDS.reconstruction], ["KL", "kl", WORDS.kl]];

export function compareView(app) {
  const node = element("div", { class: "stacked" }, app.runs.length > 1 ? [meansPanel(app), differencesPanel(app), settingsPanel(app)] : alone());
  return { node, update: () => {} };
}

function alone() {
  return panel("One run", element("p", {}, "This page holds one run. To see several side by side give their folders: pyro-aevb explore RUN RUN --out page.html"));
}

export function meanOver(values) {
  const known = values.filter((value) => !Number.isNaN(value));
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const square = known.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, se: Math.sqrt(square / (known.length - 1) / known.length) };
}

function table(head, rows) {
  const heads = head.map((words) => element("th", { scope: "col" }, words));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, rows)));
}

function rowLine(name, cells) {
  return element("tr", {}, element("th", { scope: "row" }, name), cells);
}

function meansPanel(app) {
  const rows = app.runs.map((run) => rowLine(run.name, MEASURED.map(([, key]) => {
    const { mean, se } = meanOver(run[key]);
    return element("td", {}, withError(mean, se));
  })));
  const made = panel("Each by itself", table(["run", ...MEASURED.map(([name]) => name)], rows),
    element("p", { class: "quiet" }, `Nats per datum, mean ± standard error over ${app.runs[0].count.toLocaleString("en")} data of the run's ${app.runs[0].data.split} set. `,
      MEASURED.map(([name, , about]) => [hint(name, about), " "]).flat()));
  return made;
}

function differencesPanel(app) {
  if (!app.payload.same_data) return panel("Differences", element("p", { class: "warning" }, app.payload.same_data_reason));
  const first = app.run();
  const rows = app.runs.filter((run) => run !== first).map((run) => rowLine(run.name, MEASURED.map(([, key]) => {
    const { mean, se } = meanOver(run[key].map((value, i) => value - first[key][i]));
    return element("td", {}, `${mean > 0 ? "+" : ""}${withError(mean, se)}`);
  })));
  const made = panel(`Less ${first.name}, datum by datum`, table(["run", ...MEASURED.map(([name]) => name)], rows),
    element("p", { class: "quiet" }, "Mean ± standard error of the differences over the same data: far smaller than the errors above, since what makes a datum hard for one run makes it hard for the other. Two seeds of one setting differ too, which these errors leave out: pyro-aevb report tells both."));
  return made;
}

function settingsPanel(app) {
  const names = app.run().spec.facts.map(([name]) => name);
  const of = (run, name) => run.spec.facts.find(([key]) => key === name)?.[1] ?? "–";
  const differing = names.filter((name) => new Set(app.runs.map((run) => of(run, name))).size > 1);
  const rows = differing.map((name) => rowLine(name, app.runs.map((run) => element("td", {}, of(run, name)))));
  const made = panel("Settings that differ", differing.length ? table(["", ...app.runs.map((run) => run.name)], rows) : element("p", {}, "None of those that this page shows."));
  return made;
}
