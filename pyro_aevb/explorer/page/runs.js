// A run of the payload, its arrays unpacked and its pair made when first asked for.

import { makeRandom, toArray } from "./numerics.js";
import { makePair } from "./pair.js";

const COLUMNS = ["bound", "reconstruction", "kl", "log_likelihood", "log_likelihood_se", "k_hat"];

export function openRun(spec) {
  const data = spec.data;
  const run = { spec, data, name: spec.name, latents: spec.dimensions.length };
  run.x = toArray(data.x);
  run.count = run.x.shape[0];
  run.size = run.x.shape[1];
  run.mean = toArray(data.mean);
  run.sd = toArray(data.sd);
  for (const name of COLUMNS) run[name] = data[name] ? toArray(data[name]).values : new Float64Array(run.count).fill(NaN);
  run.weight = toArray(spec.kl ?? spec.activity).values;
  run.labels = spec.labels ? { ...spec.labels, values: toArray(spec.labels.values).values } : null;
  run.priorDraws = toArray(spec.prior_draws);
  run.aggregateDraws = toArray(spec.aggregate_draws);
  run.order = [...run.weight.keys()].sort((a, b) => run.weight[b] - run.weight[a]);
  run.bases = { z: unitBasis(run), pc: principalBasis(run) };
  run.hasGaps = run.x.values.some(Number.isNaN);
  run.isBinary = data.kind === "image" && run.x.values.every((value) => value === 0 || value === 1);
  lazily(run, "pair", () => makePair(spec.pair));
  lazily(run, "tiles", () => (spec.tiles ? { ...spec.tiles, means: toArray(spec.tiles.means) } : null));
  lazily(run, "reconstructions", () => (spec.reconstructions ? toArray(spec.reconstructions) : null));
  return run;
}

function lazily(object, name, make) {
  let made;
  Object.defineProperty(object, name, { get: () => (made === undefined ? (made = make()) : made), enumerable: true });
}

export function rowOfArray(array, index) {
  const width = array.shape[1];
  return array.values.subarray(index * width, (index + 1) * width);
}

// Directions to move along: the latents themselves, or the principal axes of the posterior means.
function unitBasis(run) {
  const direction = (k) => Float64Array.from({ length: run.latents }, (_, i) => (i === k ? 1 : 0));
  const name = (k) => `${run.spec.dimensions[k]}${run.spec.kl ? ` (KL ${run.weight[k].toFixed(2)} nats)` : ""}`;
  return { origin: new Float64Array(run.latents), direction, name, order: run.order };
}

function principalBasis(run) {
  const { mean, directions, explained } = run.spec.axes;
  const rows = toArray(directions);
  const shares = toArray(explained).values;
  const name = (k) => `axis ${k + 1} (${(100 * shares[k]).toFixed(0)} % of variance)`;
  return { origin: toArray(mean).values, direction: (k) => rowOfArray(rows, k), name, order: [...shares.keys()] };
}

export function along(z, basis, k) {
  const direction = basis.direction(k);
  return direction.reduce((sum, weight, i) => sum + weight * (z[i] - basis.origin[i]), 0);
}

export function moved(z, basis, k, value) {
  const step = value - along(z, basis, k);
  return Float64Array.from(basis.direction(k), (weight, i) => z[i] + step * weight);
}

// What the model makes of z: live, or from the nearest tile that was computed before.
export function decoded(run, z) {
  if (run.pair) return run.pair.decode(z).mean;
  const { dimensions, low, high, side, means } = run.tiles;
  const places = dimensions.map((k, i) => {
    const share = (z[k] - low[i]) / (high[i] - low[i] || 1);
    return Math.min(side - 1, Math.max(0, Math.round(share * (side - 1))));
  });
  return rowOfArray(means, places.length > 1 ? places[1] * side + places[0] : places[0]);
}

export function reconstructed(run, index) {
  if (run.pair) return run.pair.decode(rowOfArray(run.mean, index)).mean;
  return rowOfArray(run.reconstructions, index);
}

export function randomOf(state) {
  return makeRandom(state.seed);
}

export function labelOf(run, index) {
  const place = run.labels ? run.labels.values[index] : -1;
  return place < 0 ? "" : run.labels.names[place];
}
