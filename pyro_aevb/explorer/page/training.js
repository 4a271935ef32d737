// The learning curve, the gaps, the latents' KL, the gradients' signal-to-noise ratio.

import { barsChart, chartLegend, linesChart } from "./charts.js";
import { columns, element, hint, numbers, panel, withError, WORDS } from "./elements.js";

export function trainingView(app) {
  const run = app.run();
  const node = columns([curvePanel(app), gradientsPanel(run)], [gapsPanel(run), klPanel(run), factsPanel(run)]);
  return { node, update: () => {} };
}

// Learning curves of all runs, the one that is shown first.
function curvePanel(app) {
  const runs = [app.run(), ...app.runs.filter((run) => run !== app.run())];
  const several = runs.length > 1;
  const lines = runs.flatMap((run) => [
    { name: `${several ? `${run.name}, ` : ""}training data`, points: curveOf(run, "bound") },
    { name: `${several ? `${run.name}, ` : ""}test data, ± s.e.`, points: curveOf(run, "test_bound", "test_se"), marks: true },
  ]).filter((line) => line.points.length);
  const chart = linesChart(lines, {
    label: "learning curve", xName: "training samples seen", yName: "bound, nats per datum", logX: true, cut: lowest(lines),
  });
  const made = panel("Learning curve", chart ?? element("p", {}, "The run kept no learning curve."), chart ? chartLegend(lines.map((line) => line.name)) : null,
    hint("the bound", WORDS.bound));
  return made;
}

function curveOf(run, name, error) {
  return run.spec.curve.filter((record) => name in record).map((record) => [record.samples_seen, record[name], error ? record[error] : 0]);
}

// The steep beginning would leave all else a flat line: bounds far below the later ones are cut.
function lowest(lines) {
  const values = lines.flatMap((line) => line.points.map((point) => point[1])).sort((a, b) => a - b);
  if (!values.length) return undefined;
  const [middle, top] = [values[Math.floor(values.length / 2)], values.at(-1)];
  return Math.max(values[0], top - 6 * (top - middle || 1));
}

function gapsPanel(run) {
  const { gaps } = run.spec;
  if (!gaps) return panel("What the bound misses", missing(run, "diagnose"));
  const rows = [
    ["bound", withError(gaps.bound, NaN)],
    ["amortisation gap", withError(gaps.amortisation, gaps.amortisation_se)],
    ["bound, q optimised for each datum", withError(gaps.optimised_bound, NaN)],
    ["approximation gap", withError(gaps.approximation, gaps.approximation_se)],
    ["log p(x)", withError(gaps.log_likelihood, NaN)],
  ];
  return panel("What the bound misses", numbers(rows), element("p", { class: "quiet" }, `Nats per datum, mean over ${gaps.count} data. `, hint("a gap", WORDS.gaps)));
}

function missing(run, command) {
  return element("p", { class: "quiet" }, `To fill this, run: pyro-aevb ${command} ${run.name}`);
}

function klPanel(run) {
  const names = run.order.map((k) => run.spec.dimensions[k]);
  const unit = run.spec.kl ? "KL, nats per datum" : "variance of the posterior mean";
  const values = run.order.map((k) => run.weight[k]);
  const chart = barsChart(names, values, run.order.map((k) => run.spec.active[k]), { label: `${unit} by latent dimension`, yName: unit });
  const active = run.spec.active.filter(Boolean).length;
  return panel("What each latent carries", chart, element("p", { class: "quiet" }, `Blue: active, ${active} of ${run.latents}. `,
    run.spec.kl_note ? `${run.spec.kl_note} ` : "", hint("active", WORDS.active), " ", hint("KL", WORDS.kl)));
}

function gradientsPanel(run) {
  const { gradients } = run.spec;
  if (!gradients) return panel("Signal-to-noise ratio of gradients", missing(run, "compare"));
  const names = [...new Set(gradients.map((row) => row.estimator))];
  const parts = ["model", "guide"].map((part) => {
    const lines = names.map((name) => ({ name, marks: true, points: gradients.filter((row) => row.estimator === name && row.part === part && row.snr > 0).map((row) => [row.num_particles, row.snr]) }));
    const chart = linesChart(lines.filter((line) => line.points.length), { label: `signal-to-noise ratio, ${part}`, xName: "number of particles", yName: `SNR, ${part}'s parameters`, logX: true, logY: true });
    return chart ?? "";
  });
  return panel("Signal-to-noise ratio of gradients", ...parts, chartLegend(names), hint("the signal-to-noise ratio", WORDS.snr));
}

function factsPanel(run) {
  const rows = run.spec.facts.map(([name, words]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, words)));
  const notes = run.spec.notes.map((note) => element("p", { class: "warning" }, note));
  return panel("What was trained", element("table", { class: "facts" }, element("tbody", {}, rows)), notes);
}
