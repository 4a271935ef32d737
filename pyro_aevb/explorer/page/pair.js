// A pair, from its recorded graphs: what the page asks of model and guide, for one datum. Nothing here draws anything.

import { makeGraph, makeRandom, tensor, toArray } from "./numerics.js";

const MOMENT_DRAWS = 200; // for the moments of a guide that tells none
const MOMENT_SEED = 1;
const COVARIANCE_DRAWS = 400; // for the covariance of a guide that does not factorise

function rowOf(values) {
  return tensor([1, values.length], Float64Array.from(values));
}

// The pair of one run's payload, or null where none is live.
export function makePair(spec) {
  if (!spec) return null;
  const tensors = Object.fromEntries(Object.entries(spec.tensors).map(([name, packed]) => [name, toArray(packed)]));
  const graphs = Object.fromEntries(
    Object.entries(spec.graphs).map(([name, graph]) => [name, makeGraph(graph, tensors)]),
  );
  const pair = {
    decode: (z) => ({ mean: graphs.decode([rowOf(z)], null)[0].values }),
    prior: (random) => graphs.prior([rowOf([])], random)[0].values,
    posterior: (x, random) => scored(graphs.posterior([rowOf(x)], random)),
    kl: (x) => (graphs.kl ? divergence(graphs.kl([rowOf(x)], null)) : null),
    score: graphs.score ? (x, z) => densities(graphs.score([rowOf(x), rowOf(z)], null)) : null,
    observe: graphs.observe ? (z, random) => graphs.observe([rowOf(z)], random)[0].values : null,
  };
  pair.encode = graphs.encode ? (x) => moments(graphs.encode([rowOf(x)], null)) : (x) => momentsOfDraws(pair, x);
  pair.covariance = (x, u, v) => covariance(pair, x, u, v);
  pair.interval = (z, random, count = 200, level = 0.9) => intervalOf(pair, z, random, count, level);
  pair.logEvidence = (x, count, random) => logEvidence(pair, x, count, random);
  return pair;
}

function moments([mean, sd]) {
  return { mean: mean.values, sd: sd.values };
}

function densities([likelihood, prior, guide]) {
  return { logLikelihood: likelihood.values[0], logPrior: prior.values[0], logGuide: guide.values[0] };
}

function scored([z, ...logs]) {
  return { z: z.values, ...densities(logs) };
}

function divergence([total, parts]) {
  return { total: total.values[0], perDimension: parts ? parts.values : null };
}

// Mean and standard deviation over draws, at the same noise each time, so that equal data have equal ones.
function momentsOfDraws(pair, x) {
  const random = makeRandom(MOMENT_SEED);
  const draws = Array.from({ length: MOMENT_DRAWS }, () => pair.posterior(x, random).z);
  const mean = draws[0].map((_, k) => draws.reduce((sum, z) => sum + z[k], 0) / MOMENT_DRAWS);
  const square = (k) => draws.reduce((sum, z) => sum + (z[k] - mean[k]) ** 2, 0);
  return { mean, sd: mean.map((_, k) => Math.sqrt(square(k) / (MOMENT_DRAWS - 1))) };
}

// The covariance of q(z|x) along two directions: from its standard deviations where it factorises, as is known by its KL
// having parts, else from draws at the same noise each time.
function covariance(pair, x, u, v) {
  if (pair.kl(x)?.perDimension) return covarianceOfParts(pair.encode(x).sd, u, v);
  const random = makeRandom(MOMENT_SEED);
  const draws = Array.from({ length: COVARIANCE_DRAWS }, () => pair.posterior(x, random).z);
  const on = (z, direction) => direction.reduce((total, weight, k) => total + weight * z[k], 0);
  const points = draws.map((z) => [on(z, u), on(z, v)]);
  const middle = [0, 1].map((d) => meanOf(points.map((point) => point[d])).mean);
  const over = (i, j) => points.reduce((sum, p) => sum + (p[i] - middle[i]) * (p[j] - middle[j]), 0) / (points.length - 1);
  return [[over(0, 0), over(0, 1)], [over(1, 0), over(1, 1)]];
}

// The same where latents are independent, from their standard deviations.
export function covarianceOfParts(sd, u, v) {
  const over = (a, b) => a.reduce((sum, weight, k) => sum + weight * b[k] * sd[k] ** 2, 0);
  return [[over(u, u), over(u, v)], [over(v, u), over(v, v)]];
}

// Per dimension of x, the middle of draws of p(x|z): all but (1 - level) / 2 of them on each side; and the draws.
function intervalOf(pair, z, random, count, level) {
  const draws = Array.from({ length: count }, () => pair.observe(z, random));
  const sorted = Array.from(draws[0], (_, d) => Float64Array.from(draws, (x) => x[d]).sort());
  const at = (share) => Float64Array.from(sorted, (values) => quantile(values, share));
  return { low: at((1 - level) / 2), high: at((1 + level) / 2), median: at(0.5), draws };
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

// log p(x) by importance sampling, log mean of w = p(x, z) / q(z|x); its standard error by the delta method, that of the
// mean weight over the mean weight; the effective sample size; and means over the draws with their errors: the bound, of
// log w, and its parts, of log p(x|z) and of log q(z|x) - log p(z).
function logEvidence(pair, x, count, random) {
  const draws = Array.from({ length: count }, () => pair.posterior(x, random));
  const logs = Float64Array.from(draws, (one) => one.logLikelihood + one.logPrior - one.logGuide);
  const most = Math.max(...logs);
  const weights = logs.map((log) => Math.exp(log - most));
  const { mean, se } = meanOf(weights);
  const squares = weights.reduce((sum, w) => sum + w * w, 0);
  const bound = meanOf(logs);
  const likelihood = meanOf(draws.map((one) => one.logLikelihood));
  const divergence = meanOf(draws.map((one) => one.logGuide - one.logPrior));
  return {
    value: most + Math.log(mean), se: se / mean, ess: (mean * count) ** 2 / squares,
    bound: bound.mean, boundSe: bound.se,
    likelihood: likelihood.mean, likelihoodSe: likelihood.se,
    divergence: divergence.mean, divergenceSe: divergence.se,
  };
}

function meanOf(values) {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  const square = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, se: Math.sqrt(square / (values.length - 1) / values.length) };
}
