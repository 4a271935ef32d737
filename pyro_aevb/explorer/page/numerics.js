// Tensors and the operations of recorded graphs, in float64, and random numbers.
//
// A tensor is {shape, values}: a list of sizes, and a Float64Array with the last dimension running fastest. No operation
// changes a tensor, so tensors may share values. Each operation of OPERATIONS stands on a line of its own under the name
// that torch gives it (aten), for Python reads from there which ones a page knows; arguments are in aten's order.

const INTEGERS = new Set(["int64", "int32", "int16", "int8", "uint8"]);

export function tensor(shape, values) {
  return { shape, values };
}

export function sizeOf(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

function filled(shape, value) {
  return tensor(shape, new Float64Array(sizeOf(shape)).fill(value));
}

// ---------------------------------------------------------------- numbers of the payload

const READERS = {
  uint8: [1, (view, place) => view.getUint8(place)],
  int32: [4, (view, place) => view.getInt32(place, true)],
  float16: [2, (view, place) => halfToNumber(view.getUint16(place, true))],
  float32: [4, (view, place) => view.getFloat32(place, true)],
  float64: [8, (view, place) => view.getFloat64(place, true)],
};

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

// A packed array of the payload, {dtype, shape, data}, as a tensor; bytes of grey pixels say what they are divided by,
// in float32 as the data were.
export function toArray(spec) {
  const text = atob(spec.data);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const [width, read] = READERS[spec.dtype];
  const values = new Float64Array(bytes.length / width);
  for (let i = 0; i < values.length; i++) values[i] = read(view, i * width);
  return tensor(spec.shape, spec.divided_by ? values.map((x) => Math.fround(x / spec.divided_by)) : values);
}

// ---------------------------------------------------------------- special functions

const LANCZOS = [
  0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
  12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
];

// The logarithm of the absolute value of the gamma function (Lanczos, 1964).
export function logGamma(x) {
  if (x <= 0 && Number.isInteger(x)) return Infinity;
  if (x < 0.5) return Math.log(Math.PI / Math.abs(Math.sin(Math.PI * x))) - logGamma(1 - x);
  const t = x + 6.5;
  let sum = LANCZOS[0];
  for (let i = 1; i < LANCZOS.length; i++) sum += LANCZOS[i] / (x - 1 + i);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

// erf by its series, whose terms have one sign, near zero; 1 - erfc by its continued fraction farther away.
function erf(x) {
  if (Math.abs(x) > 2.5) return x > 0 ? 1 - erfc(x) : erfc(-x) - 1;
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return ((2 * Math.exp(-x * x)) / Math.sqrt(Math.PI)) * sum;
}

function erfc(x) {
  if (Number.isNaN(x)) return x;
  if (x < 2.5) return x < -2.5 ? 2 - erfc(-x) : 1 - erf(x);
  let fraction = 0;
  for (let n = 120; n > 0; n--) fraction = n / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

// To the nearest whole number, halves to the even one, as torch does.
function roundToEven(x) {
  const nearest = Math.round(x);
  return Math.abs(x % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}

// ---------------------------------------------------------------- random numbers

// A generator of 32-bit numbers from a seed, xoshiro128** (Blackman and Vigna, 2018), seeded by splitmix32.
function generator(seed) {
  let mixed = seed >>> 0;
  const state = Uint32Array.from({ length: 4 }, () => {
    mixed = (mixed + 0x9e3779b9) >>> 0;
    let word = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
    return (word ^ (word >>> 15)) >>> 0;
  });
  const turned = (word, by) => ((word << by) | (word >>> (32 - by))) >>> 0;
  return () => {
    const result = Math.imul(turned(Math.imul(state[1], 5) >>> 0, 7), 9) >>> 0;
    const shifted = state[1] << 9;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = turned(state[3], 11);
    return result;
  };
}

// Random numbers from a seed; equal seeds give equal numbers.
export function makeRandom(seed) {
  const next = generator(seed);
  let spare = null;
  const uniform = () => ((next() >>> 5) * 67108864 + (next() >>> 6) + 0.5) / 9007199254740992;
  function normal() {
    if (spare !== null) {
      const kept = spare;
      spare = null;
      return kept;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
  const random = { uniform, normal, given: () => null };
  random.gamma = (shape) => gammaDraw(random, shape);
  random.poisson = (rate) => poissonDraw(random, rate);
  return random;
}

// Noise that was drawn elsewhere, a list of arrays, one for each random operation in its turn.
export function givenRandom(arrays) {
  let place = 0;
  return { given: () => arrays[place++] };
}

// Marsaglia and Tsang, 2000; a shape below 1 by the one above it.
function gammaDraw(random, shape) {
  if (shape < 1) return gammaDraw(random, shape + 1) * random.uniform() ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(random.uniform()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}

// Waiting times for small rates; for large ones the time of the m-th event splits the count (Ahrens and Dieter, 1974).
function poissonDraw(random, rate) {
  let count = 0;
  while (rate > 30) {
    const events = Math.floor((7 * rate) / 8);
    const time = gammaDraw(random, events);
    if (time > rate) return count + binomialDraw(random, events - 1, rate / time);
    count += events;
    rate -= time;
  }
  const limit = Math.exp(-rate);
  for (let product = random.uniform(); product > limit; product *= random.uniform()) count++;
  return count;
}

function binomialDraw(random, trials, probability) {
  let count = 0;
  for (let i = 0; i < trials; i++) count += random.uniform() < probability ? 1 : 0;
  return count;
}

// One random operation: noise that was handed in, or a number drawn for each place.
function drawn(random, shape, draw) {
  const given = random.given();
  if (given) return tensor(shape, Float64Array.from(given));
  const values = new Float64Array(sizeOf(shape));
  for (let i = 0; i < values.length; i++) values[i] = draw(i);
  return tensor(shape, values);
}

function drawnFrom(a, b, random, draw) {
  const [left, right] = together(a, b);
  return drawn(random, left.shape, (i) => draw(left.values[i], right.values[i]));
}

// Places drawn with probabilities in proportion to each row's numbers.
function multinomial(weights, count, replacement, random) {
  const given = random.given();
  const shape = [...weights.shape.slice(0, -1), count];
  if (given) return tensor(shape, Float64Array.from(given));
  const width = weights.shape.at(-1);
  const values = new Float64Array(sizeOf(shape));
  for (let i = 0; i < values.length; i++) {
    const row = Math.floor(i / count);
    const left = weights.values.slice(row * width, (row + 1) * width);
    if (!replacement) for (let j = row * count; j < i; j++) left[values[j]] = 0;
    values[i] = placeOf(left, random.uniform());
  }
  return tensor(shape, values);
}

function placeOf(weights, uniform) {
  let rest = uniform * weights.reduce((sum, weight) => sum + weight, 0);
  let last = 0;
  for (let i = 0; i < weights.length; i++) {
    if (weights[i] === 0) continue;
    last = i;
    rest -= weights[i];
    if (rest <= 0) break;
  }
  return last;
}

function dirichlet(concentration, random) {
  const width = concentration.shape.at(-1);
  const given = random.given();
  if (given) return tensor(concentration.shape, Float64Array.from(given));
  const values = concentration.values.map((shape) => random.gamma(shape));
  return byRows(tensor(concentration.shape, values), width, (row) => {
    const sum = row.reduce((total, value) => total + value, 0);
    return row.map((value) => value / sum);
  });
}

// ---------------------------------------------------------------- shapes

function stridesOf(shape) {
  const strides = new Array(shape.length);
  let step = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

function broadcastShape(...shapes) {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, d) => {
    const sizes = shapes.map((shape) => shape[shape.length - rank + d] ?? 1);
    return sizes.find((size) => size !== 1) ?? 1;
  });
}

// A tensor read through strides and an offset, into a new one.
function strided(a, shape, strides, offset = 0) {
  const out = new Float64Array(sizeOf(shape));
  const index = new Array(shape.length).fill(0);
  let place = offset;
  for (let i = 0; i < out.length; i++) {
    out[i] = a.values[place];
    for (let d = shape.length - 1; d >= 0; d--) {
      place += strides[d];
      if (++index[d] < shape[d]) break;
      place -= strides[d] * shape[d];
      index[d] = 0;
    }
  }
  return tensor(shape, out);
}

function sameShape(one, other) {
  return one.length === other.length && one.every((size, d) => size === other[d]);
}

function expand(a, sizes) {
  const extra = sizes.length - a.shape.length;
  const shape = sizes.map((size, d) => (size === -1 ? a.shape[d - extra] : size));
  if (sameShape(shape, a.shape)) return a;
  const own = stridesOf(a.shape);
  const strides = shape.map((_, d) => (d < extra || a.shape[d - extra] === 1 ? 0 : own[d - extra]));
  return strided(a, shape, strides);
}

function asTensor(value) {
  return typeof value === "object" ? value : tensor([], Float64Array.of(Number(value)));
}

function together(...parts) {
  const tensors = parts.map(asTensor);
  if (tensors.every((each) => sameShape(each.shape, tensors[0].shape))) return tensors;
  const shape = broadcastShape(...tensors.map((each) => each.shape));
  return tensors.map((each) => expand(each, shape));
}

function view(a, shape) {
  const known = shape.reduce((product, size) => (size === -1 ? product : product * size), 1);
  return tensor(shape.map((size) => (size === -1 ? a.values.length / known : size)), a.values);
}

function permute(a, order) {
  const strides = stridesOf(a.shape);
  const places = order.map((d) => dimension(d, a.shape.length));
  return strided(a, places.map((d) => a.shape[d]), places.map((d) => strides[d]));
}

function dimension(d, rank) {
  return d < 0 ? d + Math.max(rank, 1) : d;
}

function inside(place, size) {
  return Math.min(Math.max(place < 0 ? place + size : place, 0), size);
}

function slice(a, dim = 0, start = null, end = null, step = 1) {
  const d = dimension(dim, a.shape.length);
  const size = a.shape[d];
  const from = inside(start ?? 0, size);
  const to = Math.max(from, inside(Math.min(end ?? size, size), size));
  const strides = stridesOf(a.shape);
  const shape = a.shape.with(d, Math.ceil((to - from) / step));
  return strided(a, shape, strides.with(d, strides[d] * step), from * strides[d]);
}

function select(a, dim, index) {
  const d = dimension(dim, a.shape.length);
  const place = index < 0 ? index + a.shape[d] : index;
  return view(slice(a, d, place, place + 1), a.shape.toSpliced(d, 1));
}

function diagonal(a, offset = 0, first = 0, second = 1) {
  const [one, two] = [first, second].map((d) => dimension(d, a.shape.length));
  const strides = stridesOf(a.shape);
  const length = Math.max(0, Math.min(a.shape[one] + Math.min(offset, 0), a.shape[two] - Math.max(offset, 0)));
  const others = a.shape.map((_, d) => d).filter((d) => d !== one && d !== two);
  const shape = [...others.map((d) => a.shape[d]), length];
  const start = Math.max(-offset, 0) * strides[one] + Math.max(offset, 0) * strides[two];
  return strided(a, shape, [...others.map((d) => strides[d]), strides[one] + strides[two]], start);
}

function squeeze(a, dims) {
  const gone = new Set(dims.map((d) => dimension(d, a.shape.length)));
  return view(a, a.shape.filter((size, d) => !(size === 1 && gone.has(d))));
}

function unsqueeze(a, dim) {
  return view(a, a.shape.toSpliced(dimension(dim, a.shape.length + 1), 0, 1));
}

function cat(tensors, dim = 0) {
  const parts = tensors.filter((each) => each.shape.length !== 1 || each.shape[0] !== 0);
  const d = dimension(dim, parts[0].shape.length);
  const shape = parts[0].shape.with(d, parts.reduce((sum, each) => sum + each.shape[d], 0));
  const outer = sizeOf(shape.slice(0, d));
  const out = new Float64Array(sizeOf(shape));
  let place = 0;
  for (let i = 0; i < outer; i++) {
    for (const part of parts) {
      const run = part.values.length / outer;
      out.set(part.values.subarray(i * run, (i + 1) * run), place);
      place += run;
    }
  }
  return tensor(shape, out);
}

function split(a, sizes, dim = 0) {
  const d = dimension(dim, a.shape.length);
  let start = 0;
  return sizes.map((size) => slice(a, d, start, (start += size)));
}

function repeat(a, times) {
  const shape = [...new Array(times.length - a.shape.length).fill(1), ...a.shape];
  let out = view(a, shape);
  times.forEach((count, d) => {
    out = cat(new Array(count).fill(out), d);
  });
  return out;
}

// Padding pairs come last dimension first; a negative one cuts.
function pad(a, pairs, value = 0) {
  let out = a;
  for (let i = 0; i < pairs.length / 2; i++) {
    const d = a.shape.length - 1 - i;
    const [before, after] = [pairs[2 * i], pairs[2 * i + 1]];
    const cut = slice(out, d, Math.max(-before, 0), out.shape[d] - Math.max(-after, 0));
    const sides = [before, after].map((count) => filled(cut.shape.with(d, Math.max(count, 0)), value));
    out = cat([sides[0], cut, sides[1]], d);
  }
  return out;
}

function gather(a, dim, index) {
  const d = dimension(dim, a.shape.length);
  const strides = stridesOf(a.shape);
  return placed(index.shape, (at, i) => {
    let place = 0;
    for (let k = 0; k < at.length; k++) place += (k === d ? index.values[i] : at[k]) * strides[k];
    return a.values[place];
  });
}

// A tensor whose numbers a function gives, of the index along each dimension, and of the place in all.
function placed(shape, value) {
  const out = new Float64Array(sizeOf(shape));
  const at = new Array(shape.length).fill(0);
  for (let i = 0; i < out.length; i++) {
    out[i] = value(at, i);
    for (let d = shape.length - 1; d >= 0 && ++at[d] === shape[d]; d--) at[d] = 0;
  }
  return tensor(shape, out);
}

function indexSelect(a, dim, index) {
  const d = dimension(dim, a.shape.length);
  return cat([...index.values].map((place) => slice(a, d, place, place + 1)), d);
}

// Where advanced indices lead: the shape of what they choose, and the place of each of its numbers.
function chosen(a, indices) {
  const all = a.shape.map((_, d) => indices[d] ?? null);
  const which = all.flatMap((index, d) => (index ? [d] : []));
  const given = together(...which.map((d) => all[d]));
  const apart = which.some((d, i) => i > 0 && d !== which[i - 1] + 1);
  const first = apart ? 0 : which[0];
  const rest = a.shape.map((_, d) => d).filter((d) => !all[d]);
  const before = apart ? [] : rest.filter((d) => d < first);
  const after = rest.filter((d) => !before.includes(d));
  const common = given[0].shape;
  const shape = [...before.map((d) => a.shape[d]), ...common, ...after.map((d) => a.shape[d])];
  const strides = stridesOf(a.shape);
  const inner = stridesOf(common);
  const places = placed(shape, (at) => {
    let of = 0;
    for (let k = 0; k < common.length; k++) of += at[before.length + k] * inner[k];
    let place = 0;
    which.forEach((d, i) => {
      const index = given[i].values[of];
      place += (index < 0 ? index + a.shape[d] : index) * strides[d];
    });
    before.forEach((d, k) => (place += at[k] * strides[d]));
    after.forEach((d, k) => (place += at[before.length + common.length + k] * strides[d]));
    return place;
  });
  return places;
}

function indexed(a, indices) {
  const places = chosen(a, indices);
  return tensor(places.shape, places.values.map((place) => a.values[place]));
}

function indexPut(a, indices, values, accumulate = false) {
  const places = chosen(a, indices);
  const given = expand(values, places.shape);
  const out = Float64Array.from(a.values);
  places.values.forEach((place, i) => (out[place] = given.values[i] + (accumulate ? out[place] : 0)));
  return tensor(a.shape, out);
}

function scattered(a, dim, index, source) {
  const d = dimension(dim, a.shape.length);
  const strides = stridesOf(a.shape);
  const out = Float64Array.from(a.values);
  placed(index.shape, (at, i) => {
    const place = at.reduce((sum, each, k) => sum + (k === d ? index.values[i] : each) * strides[k], 0);
    out[place] = typeof source === "number" ? source : gatherAt(source, at);
    return 0;
  });
  return tensor(a.shape, out);
}

function gatherAt(a, at) {
  const strides = stridesOf(a.shape);
  return a.values[at.reduce((sum, each, k) => sum + each * strides[k], 0)];
}

// ---------------------------------------------------------------- elementwise, sums, products

function map(a, f) {
  const out = new Float64Array(a.values.length);
  for (let i = 0; i < out.length; i++) out[i] = f(a.values[i]);
  return tensor(a.shape, out);
}

function map2(a, b, f) {
  const [left, right] = together(a, b);
  const out = new Float64Array(left.values.length);
  for (let i = 0; i < out.length; i++) out[i] = f(left.values[i], right.values[i]);
  return tensor(left.shape, out);
}

function where(condition, a, b) {
  const [test, left, right] = together(condition, a, b);
  return tensor(test.shape, left.values.map((value, i) => (test.values[i] ? value : right.values[i])));
}

function cast(a, dtype) {
  if (dtype === "bool") return map(a, (x) => (x !== 0 ? 1 : 0));
  if (dtype === "float32") return map(a, Math.fround);
  return INTEGERS.has(dtype) ? map(a, Math.trunc) : a;
}

function clamp(a, low, high) {
  const raised = low === null || low === undefined ? a : map2(a, low, larger);
  return high === null || high === undefined ? raised : map2(raised, high, smaller);
}

function larger(a, b) {
  return Number.isNaN(a) || Number.isNaN(b) ? NaN : Math.max(a, b);
}

function smaller(a, b) {
  return Number.isNaN(a) || Number.isNaN(b) ? NaN : Math.min(a, b);
}

// All numbers along some dimensions, brought to the end and made one row each; and the shape of what is left.
function rowsOver(a, dims, keep) {
  const rank = a.shape.length;
  const all = dims === null || dims === undefined || dims.length === 0;
  const over = new Set(all ? a.shape.map((_, d) => d) : dims.map((d) => dimension(d, rank)));
  const rest = a.shape.map((_, d) => d).filter((d) => !over.has(d));
  const order = [...rest, ...over];
  const inOrder = order.every((d, i) => d === i);
  const turned = inOrder ? a : permute(a, order);
  const width = sizeOf([...over].filter((d) => d < rank).map((d) => a.shape[d]));
  const shape = keep ? a.shape.map((size, d) => (over.has(d) ? 1 : size)) : rest.map((d) => a.shape[d]);
  return { values: turned.values, width, shape };
}

function reduce(a, dims, keep, start, f, last = (x) => x) {
  const { values, width, shape } = rowsOver(a, dims, keep);
  const out = new Float64Array(sizeOf(shape));
  for (let row = 0; row < out.length; row++) {
    let value = start;
    for (let i = row * width; i < (row + 1) * width; i++) value = f(value, values[i]);
    out[row] = last(value, width);
  }
  return tensor(shape, out);
}

const plus = (sum, x) => sum + x;

function bestPlace(a, dim, keep, better) {
  const flat = dim === null || dim === undefined;
  const { values, width, shape } = rowsOver(a, flat ? null : [dim], keep);
  const out = new Float64Array(sizeOf(shape));
  for (let row = 0; row < out.length; row++) {
    let best = 0;
    for (let i = 1; i < width; i++) if (better(values[row * width + i], values[row * width + best])) best = i;
    out[row] = best;
  }
  return tensor(shape, out);
}

const isMore = (x, best) => x > best || (Number.isNaN(x) && !Number.isNaN(best));
const isLess = (x, best) => x < best || (Number.isNaN(x) && !Number.isNaN(best));

// A function of rows, for the numbers along one dimension.
function alongDimension(a, dim, f) {
  const rank = a.shape.length;
  const d = dimension(dim, rank);
  const order = [...a.shape.keys()].filter((k) => k !== d).concat(rank ? [d] : []);
  const turned = permute(a, order);
  const done = byRows(turned, rank ? a.shape[d] : 1, f);
  const back = order.map((_, k) => order.indexOf(k));
  return permute(done, back);
}

function byRows(a, width, f) {
  const out = new Float64Array(a.values.length);
  for (let row = 0; row < out.length; row += width) out.set(f(a.values.subarray(row, row + width)), row);
  return tensor(a.shape, out);
}

function logSoftmaxRow(row) {
  const most = row.reduce(larger, -Infinity);
  const rest = Math.log(row.reduce((sum, x) => sum + Math.exp(x - most), 0)) + most;
  return row.map((x) => x - rest);
}

function softmaxRow(row) {
  return logSoftmaxRow(row).map(Math.exp);
}

function cumulative(row, f) {
  const out = Float64Array.from(row);
  for (let i = 1; i < out.length; i++) out[i] = f(out[i - 1], out[i]);
  return out;
}

function sort(a, dim = -1, descending = false) {
  const places = alongDimension(a, dim, (row) => {
    const order = [...row.keys()];
    return order.sort((i, j) => (descending ? row[j] - row[i] : row[i] - row[j]) || i - j);
  });
  return [a.shape.length ? gather(a, dim, places) : a, places];
}

// a (n, k) times b (k, m), rows of a gone through by their numbers that are not zero: half of them in binary data.
function productInto(out, a, b, n, k, m, startA = 0, startB = 0, startOut = 0) {
  for (let i = 0; i < n; i++) {
    const row = out.subarray(startOut + i * m, startOut + (i + 1) * m);
    for (let j = 0; j < k; j++) {
      const factor = a[startA + i * k + j];
      if (factor === 0) continue;
      const from = startB + j * m;
      for (let l = 0; l < m; l++) row[l] += factor * b[from + l];
    }
  }
}

function mm(a, b) {
  const [n, k] = a.shape;
  const m = b.shape[1];
  const out = new Float64Array(n * m);
  productInto(out, a.values, b.values, n, k, m);
  return tensor([n, m], out);
}

function addmm(bias, a, b, beta = 1, alpha = 1) {
  const product = map(mm(a, b), (x) => x * alpha);
  return beta === 0 ? product : map2(bias, product, (x, y) => beta * x + y);
}

function bmm(a, b) {
  const [count, n, k] = a.shape;
  const m = b.shape[2];
  const out = new Float64Array(count * n * m);
  for (let i = 0; i < count; i++) productInto(out, a.values, b.values, n, k, m, i * n * k, i * k * m, i * n * m);
  return tensor([count, n, m], out);
}

// Solves A x = b for triangular A (..., n, n) and b (..., n, m), or x A = b from the right.
function solveTriangular(a, b, upper, left = true, unitriangular = false) {
  if (!left) return transposeLast(solveTriangular(transposeLast(a), transposeLast(b), !upper, true, unitriangular));
  const batch = broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const [n, m] = b.shape.slice(-2);
  const matrix = expand(a, [...batch, n, n]).values;
  const out = Float64Array.from(expand(b, [...batch, n, m]).values);
  for (let of = 0; of < sizeOf(batch); of++) {
    for (let step = 0; step < n; step++) {
      const i = upper ? n - 1 - step : step;
      const divisor = unitriangular ? 1 : matrix[of * n * n + i * n + i];
      for (let l = 0; l < m; l++) {
        let value = out[of * n * m + i * m + l];
        for (let done = 0; done < step; done++) {
          const j = upper ? n - 1 - done : done;
          value -= matrix[of * n * n + i * n + j] * out[of * n * m + j * m + l];
        }
        out[of * n * m + i * m + l] = value / divisor;
      }
    }
  }
  return tensor([...batch, n, m], out);
}

function transposeLast(a) {
  const order = [...a.shape.keys()];
  return permute(a, [...order.slice(0, -2), order.at(-1), order.at(-2)]);
}

// The lower triangular factor of a positive definite matrix (..., n, n).
function cholesky(a, upper = false) {
  const n = a.shape.at(-1);
  const out = new Float64Array(a.values.length);
  for (let of = 0; of < a.values.length; of += n * n) {
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        let value = a.values[of + i * n + j];
        for (let k = 0; k < j; k++) value -= out[of + i * n + k] * out[of + j * n + k];
        out[of + i * n + j] = i === j ? Math.sqrt(value) : value / out[of + j * n + j];
      }
    }
  }
  const lower = tensor(a.shape, out);
  return upper ? transposeLast(lower) : lower;
}

function triangle(a, diagonalOffset, lower) {
  const [n, m] = a.shape.slice(-2);
  const inTriangle = (i, j) => (lower ? j - i <= diagonalOffset : j - i >= diagonalOffset);
  return tensor(a.shape, a.values.map((x, p) => (inTriangle(Math.floor(p / m) % n, p % m) ? x : 0)));
}

function convolution(a, weight, bias, stride, padding, dilation, transposed, outputPadding, groups) {
  const two = a.shape.length === 4;
  const as4 = (t) => (two ? t : view(t, [t.shape[0], t.shape[1], 1, t.shape[2]]));
  const of = (list, alone) => (two ? list : [alone, ...list]);
  const settings = [of(stride, 1), of(padding, 0), of(dilation, 1), of(outputPadding, 0), groups];
  const out = (transposed ? convolveBack : convolve)(as4(a), as4(weight), bias, ...settings);
  return two ? out : view(out, [out.shape[0], out.shape[1], out.shape[3]]);
}

function withBias(shape, bias) {
  const out = new Float64Array(sizeOf(shape));
  const plane = shape[2] * shape[3];
  if (bias) for (let c = 0; c < shape[0] * shape[1]; c++) out.fill(bias.values[c % shape[1]], c * plane, (c + 1) * plane);
  return out;
}

function convolve(a, weight, bias, stride, padding, dilation, _, groups) {
  const [batch, channels, height, width] = a.shape;
  const [filters, perGroup, kh, kw] = weight.shape;
  const size = (n, k, d) => Math.floor((n + 2 * padding[d] - dilation[d] * (k - 1) - 1) / stride[d]) + 1;
  const shape = [batch, filters, size(height, kh, 0), size(width, kw, 1)];
  const out = withBias(shape, bias);
  eachTap(shape, [perGroup, kh, kw], groups, (b, f, c, y, x, u, v, place) => {
    const [row, column] = [y * stride[0] - padding[0] + u * dilation[0], x * stride[1] - padding[1] + v * dilation[1]];
    if (row < 0 || column < 0 || row >= height || column >= width) return;
    const from = ((b * channels + c) * height + row) * width + column;
    const tap = ((f * perGroup + (c % perGroup)) * kh + u) * kw + v;
    out[place] += a.values[from] * weight.values[tap];
  });
  return tensor(shape, out);
}

// The transposed convolution: each number of the input is spread over the output.
function convolveBack(a, weight, bias, stride, padding, dilation, extra, groups) {
  const [batch, channels, height, width] = a.shape;
  const [, perGroup, kh, kw] = weight.shape;
  const size = (n, k, d) => (n - 1) * stride[d] - 2 * padding[d] + dilation[d] * (k - 1) + extra[d] + 1;
  const shape = [batch, perGroup * groups, size(height, kh, 0), size(width, kw, 1)];
  const out = withBias(shape, bias);
  eachTap([batch, channels, height, width], [perGroup, kh, kw], groups, (b, c, f, y, x, u, v, place) => {
    const [row, column] = [y * stride[0] - padding[0] + u * dilation[0], x * stride[1] - padding[1] + v * dilation[1]];
    if (row < 0 || column < 0 || row >= shape[2] || column >= shape[3]) return;
    const tap = ((c * perGroup + (f % perGroup)) * kh + u) * kw + v;
    out[((b * shape[1] + f) * shape[2] + row) * shape[3] + column] += a.values[place] * weight.values[tap];
  });
  return tensor(shape, out);
}

// Goes through each place of a picture, each channel of the other side in its group, and each tap of the kernel.
function eachTap([batch, channels, height, width], [perGroup, kh, kw], groups, visit) {
  const inGroup = channels / groups;
  let place = 0;
  for (let b = 0; b < batch; b++)
    for (let c = 0; c < channels; c++)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++, place++) {
          const first = Math.floor(c / inGroup) * perGroup;
          for (let other = first; other < first + perGroup; other++)
            for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) visit(b, c, other, y, x, u, v, place);
        }
}

// Rows brought to mean 0 and variance 1, each then scaled and moved: what layers of normalisation share.
function standardised(a, width, eps) {
  const sums = [];
  const out = byRows(a, width, (row) => {
    const mean = row.reduce(plus, 0) / width;
    const rate = 1 / Math.sqrt(row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / width + eps);
    sums.push([mean, rate]);
    return row.map((x) => (x - mean) * rate);
  });
  return [out, ...[0, 1].map((i) => tensor([sums.length], Float64Array.from(sums, (each) => each[i])))];
}

function scaled(a, weight, bias) {
  const times = weight ? map2(a, weight, (x, w) => x * w) : a;
  return bias ? map2(times, bias, plus) : times;
}

function layerNorm(a, shape, weight, bias, eps) {
  const [out, mean, rate] = standardised(a, sizeOf(shape), eps);
  const left = a.shape.map((size, d) => (d < a.shape.length - shape.length ? size : 1));
  return [scaled(out, weight, bias), view(mean, left), view(rate, left)];
}

// One number for each channel, dimension 1, as a tensor of a's rank.
function byChannel(values, rank) {
  return values ? view(values, [values.values.length, ...new Array(rank - 2).fill(1)]) : values;
}

function groupNorm(a, weight, bias, batch, channels, _, groups, eps) {
  const [out, mean, rate] = standardised(a, a.values.length / (batch * groups), eps);
  const [own, moved] = [weight, bias].map((each) => byChannel(each, a.shape.length));
  return [scaled(out, own, moved), view(mean, [batch, groups]), view(rate, [batch, groups])];
}

function batchNorm(a, weight, bias, mean, variance, eps) {
  const [w, b, m, v] = [weight, bias, mean, variance].map((each) => byChannel(each, a.shape.length));
  const centred = map2(a, m, (x, y) => x - y);
  const none = filled([0], 0);
  return [scaled(map2(centred, v, (x, y) => x / Math.sqrt(y + eps)), w, b), none, none];
}

function arange(start, end, step = 1) {
  const count = Math.max(0, Math.ceil((end - start) / step));
  return tensor([count], Float64Array.from({ length: count }, (_, i) => start + i * step));
}

function divided(a, b, mode) {
  const rounding = { floor: Math.floor, trunc: Math.trunc }[mode] ?? ((x) => x);
  return map2(a, b, (x, y) => rounding(x / y));
}

const truth = (f) => (x, y) => (f(x, y) ? 1 : 0);
const same = (a) => a;
const equal = truth((x, y) => x === y);
const unequal = truth((x, y) => x !== y);
const less = truth((x, y) => x < y);
const lessOrEqual = truth((x, y) => x <= y);
const more = truth((x, y) => x > y);
const moreOrEqual = truth((x, y) => x >= y);
const both = truth((x, y) => x && y);
const either = truth((x, y) => x || y);
const logistic = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const remainder = (x, y) => x - y * Math.floor(x / y);
const softplusOf = (x, beta, threshold) => (x * beta > threshold ? x : Math.log1p(Math.exp(x * beta)) / beta);
const gelu = (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2));
const geluByTanh = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const eluOf = (x, alpha, scale, inner) => scale * (x > 0 ? x : alpha * Math.expm1(x * inner));
const cauchy = (random, median, sigma) => median + sigma * Math.tan(Math.PI * (random.uniform() - 0.5));

// Each is called with its arguments, tensors among them, and with the source of random numbers last.
const OPERATIONS = {
  "_log_softmax.default": (a, dim) => alongDimension(a, dim, logSoftmaxRow),
  "_native_batch_norm_legit_no_training.default": (a, w, b, mean, sd2, _, eps) => batchNorm(a, w, b, mean, sd2, eps),
  "_sample_dirichlet.default": (a, _, random) => dirichlet(a, random),
  "_softmax.default": (a, dim) => alongDimension(a, dim, softmaxRow),
  "_standard_gamma.default": (a, _, random) => drawn(random, a.shape, (i) => random.gamma(a.values[i])),
  "_to_copy.default": (a, dtype) => cast(a, dtype),
  "abs.default": (a) => map(a, Math.abs),
  "acos.default": (a) => map(a, Math.acos),
  "add.Scalar": (a, b, alpha) => map2(a, b, (x, y) => x + alpha * y),
  "add.Tensor": (a, b, alpha) => map2(a, b, alpha === 1 ? plus : (x, y) => x + alpha * y),
  "addmm.default": (bias, a, b, beta, alpha) => addmm(bias, a, b, beta, alpha),
  "alias.default": same,
  "alias_copy.default": same,
  "all.default": (a) => reduce(a, null, false, 1, both),
  "all.dim": (a, dim, keep) => reduce(a, [dim], keep, 1, both),
  "amax.default": (a, dims, keep) => reduce(a, dims, keep, -Infinity, larger),
  "amin.default": (a, dims, keep) => reduce(a, dims, keep, Infinity, smaller),
  "any.default": (a) => reduce(a, null, false, 0, either),
  "any.dim": (a, dim, keep) => reduce(a, [dim], keep, 0, either),
  "arange.default": (end) => arange(0, end),
  "arange.start": (start, end) => arange(start, end),
  "arange.start_step": (start, end, step) => arange(start, end, step),
  "argmax.default": (a, dim, keep) => bestPlace(a, dim, keep, isMore),
  "argmin.default": (a, dim, keep) => bestPlace(a, dim, keep, isLess),
  "asin.default": (a) => map(a, Math.asin),
  "atan.default": (a) => map(a, Math.atan),
  "atan2.default": (a, b) => map2(a, b, Math.atan2),
  "bernoulli.default": (a, _, random) => drawn(random, a.shape, (i) => (random.uniform() < a.values[i] ? 1 : 0)),
  "bernoulli.p": (a, p, _, random) => drawn(random, a.shape, () => (random.uniform() < p ? 1 : 0)),
  "binomial.default": (n, p, _, random) => drawnFrom(n, p, random, (count, chance) => binomialDraw(random, count, chance)),
  "bitwise_and.Tensor": (a, b) => map2(a, b, (x, y) => x & y),
  "bitwise_not.default": (a) => map(a, (x) => (x ? 0 : 1)),
  "bitwise_or.Tensor": (a, b) => map2(a, b, (x, y) => x | y),
  "bitwise_xor.Tensor": (a, b) => map2(a, b, (x, y) => x ^ y),
  "bmm.default": (a, b) => bmm(a, b),
  "cat.default": (tensors, dim) => cat(tensors, dim),
  "cauchy.default": (a, median, sigma, _, random) => drawn(random, a.shape, () => cauchy(random, median, sigma)),
  "ceil.default": (a) => map(a, Math.ceil),
  "clamp.Tensor": (a, low, high) => clamp(a, low, high),
  "clamp.default": (a, low, high) => clamp(a, low, high),
  "clamp_max.default": (a, high) => clamp(a, null, high),
  "clamp_min.default": (a, low) => clamp(a, low, null),
  "clone.default": same,
  "constant_pad_nd.default": (a, pairs, value) => pad(a, pairs, value),
  "convolution.default": convolution,
  "copy.default": (a, b) => expand(b, a.shape),
  "cos.default": (a) => map(a, Math.cos),
  "cosh.default": (a) => map(a, Math.cosh),
  "cumprod.default": (a, dim) => alongDimension(a, dim, (row) => cumulative(row, (x, y) => x * y)),
  "cumsum.default": (a, dim) => alongDimension(a, dim, (row) => cumulative(row, plus)),
  "detach.default": same,
  "detach_copy.default": same,
  "diagonal.default": diagonal,
  "diagonal_copy.default": (a, offset, first, second) => diagonal(a, offset, first, second),
  "div.Scalar": (a, b) => divided(a, b, null),
  "div.Tensor": (a, b) => divided(a, b, null),
  "div.Tensor_mode": (a, b, mode) => divided(a, b, mode),
  "elu.default": (a, alpha, scale, inner) => map(a, (x) => eluOf(x, alpha, scale, inner)),
  "empty.memory_format": (shape) => filled(shape, 0),
  "empty_like.default": (a) => filled(a.shape, 0),
  "empty_permuted.default": (shape) => filled(shape, 0),
  "eq.Scalar": (a, b) => map2(a, b, equal),
  "eq.Tensor": (a, b) => map2(a, b, equal),
  "erf.default": (a) => map(a, erf),
  "erfc.default": (a) => map(a, erfc),
  "exp.default": (a) => map(a, Math.exp),
  "expand.default": (a, sizes) => expand(a, sizes),
  "expand_copy.default": (a, sizes) => expand(a, sizes),
  "expm1.default": (a) => map(a, Math.expm1),
  "exponential.default": (a, rate, _, random) => drawn(random, a.shape, () => -Math.log(random.uniform()) / rate),
  "fill.Scalar": (a, value) => filled(a.shape, Number(value)),
  "fill.Tensor": (a, value) => expand(value, a.shape),
  "flip.default": (a, dims) => dims.reduce((out, d) => alongDimension(out, d, (row) => row.toReversed()), a),
  "floor.default": (a) => map(a, Math.floor),
  "floor_divide.default": (a, b) => divided(a, b, "floor"),
  "fmod.Scalar": (a, b) => map2(a, b, (x, y) => x % y),
  "fmod.Tensor": (a, b) => map2(a, b, (x, y) => x % y),
  "full.default": (shape, value) => filled(shape, Number(value)),
  "full_like.default": (a, value) => filled(a.shape, Number(value)),
  "gather.default": (a, dim, index) => gather(a, dim, index),
  "ge.Scalar": (a, b) => map2(a, b, moreOrEqual),
  "ge.Tensor": (a, b) => map2(a, b, moreOrEqual),
  "gelu.default": (a, way) => map(a, way === "tanh" ? geluByTanh : gelu),
  "getitem": (parts, place) => parts[place],
  "gt.Scalar": (a, b) => map2(a, b, more),
  "gt.Tensor": (a, b) => map2(a, b, more),
  "hardtanh.default": (a, low, high) => clamp(a, low, high),
  "index.Tensor": (a, indices) => indexed(a, indices),
  "index_put.default": (a, indices, values, accumulate) => indexPut(a, indices, values, accumulate),
  "index_select.default": (a, dim, index) => indexSelect(a, dim, index),
  "isfinite.default": (a) => map(a, (x) => (Number.isFinite(x) ? 1 : 0)),
  "isinf.default": (a) => map(a, (x) => (Math.abs(x) === Infinity ? 1 : 0)),
  "isnan.default": (a) => map(a, (x) => (Number.isNaN(x) ? 1 : 0)),
  "le.Scalar": (a, b) => map2(a, b, lessOrEqual),
  "le.Tensor": (a, b) => map2(a, b, lessOrEqual),
  "leaky_relu.default": (a, slope) => map(a, (x) => (x > 0 ? x : slope * x)),
  "lgamma.default": (a) => map(a, logGamma),
  "lift_fresh_copy.default": same,
  "linalg_cholesky_ex.default": (a, upper) => [cholesky(a, upper), filled(a.shape.slice(0, -2), 0)],
  "linalg_solve_triangular.default": (a, b, upper, left, unit) => solveTriangular(a, b, upper, left, unit),
  "log.default": (a) => map(a, Math.log),
  "log10.default": (a) => map(a, Math.log10),
  "log1p.default": (a) => map(a, Math.log1p),
  "log2.default": (a) => map(a, Math.log2),
  "logical_and.default": (a, b) => map2(a, b, both),
  "logical_not.default": (a) => map(a, (x) => (x ? 0 : 1)),
  "logical_or.default": (a, b) => map2(a, b, either),
  "lt.Scalar": (a, b) => map2(a, b, less),
  "lt.Tensor": (a, b) => map2(a, b, less),
  "max.dim": (a, dim, keep) => [reduce(a, [dim], keep, -Infinity, larger), bestPlace(a, dim, keep, isMore)],
  "maximum.default": (a, b) => map2(a, b, larger),
  "mean.default": (a) => reduce(a, null, false, 0, plus, (sum, count) => sum / count),
  "mean.dim": (a, dims, keep) => reduce(a, dims, keep, 0, plus, (sum, count) => sum / count),
  "min.dim": (a, dim, keep) => [reduce(a, [dim], keep, Infinity, smaller), bestPlace(a, dim, keep, isLess)],
  "minimum.default": (a, b) => map2(a, b, smaller),
  "mm.default": (a, b) => mm(a, b),
  "mul.Scalar": (a, b) => map2(a, b, (x, y) => x * y),
  "mul.Tensor": (a, b) => map2(a, b, (x, y) => x * y),
  "multinomial.default": (a, count, again, _, random) => multinomial(a, count, again, random),
  "native_group_norm.default": (a, w, b, n, c, size, groups, eps) => groupNorm(a, w, b, n, c, size, groups, eps),
  "native_layer_norm.default": (a, shape, weight, bias, eps) => layerNorm(a, shape, weight, bias, eps),
  "ne.Scalar": (a, b) => map2(a, b, unequal),
  "ne.Tensor": (a, b) => map2(a, b, unequal),
  "neg.default": (a) => map(a, (x) => -x),
  "normal.Tensor_Tensor": (mean, sd, _, random) => drawnFrom(mean, sd, random, (m, s) => m + s * random.normal()),
  "normal_functional.default": (a, mean, sd, _, random) => drawn(random, a.shape, () => mean + sd * random.normal()),
  "permute.default": (a, order) => permute(a, order),
  "permute_copy.default": (a, order) => permute(a, order),
  "poisson.default": (a, _, random) => drawn(random, a.shape, (i) => random.poisson(a.values[i])),
  "pow.Scalar": (a, b) => map2(a, b, (x, y) => x ** y),
  "pow.Tensor_Scalar": (a, b) => map2(a, b, (x, y) => x ** y),
  "pow.Tensor_Tensor": (a, b) => map2(a, b, (x, y) => x ** y),
  "prod.default": (a) => reduce(a, null, false, 1, (x, y) => x * y),
  "prod.dim_int": (a, dim, keep) => reduce(a, [dim], keep, 1, (x, y) => x * y),
  "rand.default": (shape, ...rest) => drawn(rest.at(-1), shape, () => rest.at(-1).uniform()),
  "rand_like.default": (a, ...rest) => drawn(rest.at(-1), a.shape, () => rest.at(-1).uniform()),
  "randn.default": (shape, ...rest) => drawn(rest.at(-1), shape, () => rest.at(-1).normal()),
  "randn_like.default": (a, ...rest) => drawn(rest.at(-1), a.shape, () => rest.at(-1).normal()),
  "reciprocal.default": (a) => map(a, (x) => 1 / x),
  "relu.default": (a) => map(a, (x) => (x < 0 ? 0 : x)),
  "remainder.Scalar": (a, b) => map2(a, b, remainder),
  "remainder.Tensor": (a, b) => map2(a, b, remainder),
  "repeat.default": (a, times) => repeat(a, times),
  "round.default": (a) => map(a, roundToEven),
  "rsqrt.default": (a) => map(a, (x) => 1 / Math.sqrt(x)),
  "scalar_tensor.default": (value) => filled([], Number(value)),
  "scatter.src": (a, dim, index, source) => scattered(a, dim, index, source),
  "scatter.value": (a, dim, index, value) => scattered(a, dim, index, value),
  "select.int": (a, dim, index) => select(a, dim, index),
  "select_copy.int": (a, dim, index) => select(a, dim, index),
  "sigmoid.default": (a) => map(a, logistic),
  "sign.default": (a) => map(a, Math.sign),
  "sin.default": (a) => map(a, Math.sin),
  "sinh.default": (a) => map(a, Math.sinh),
  "slice.Tensor": (a, dim, start, end, step) => slice(a, dim, start, end, step),
  "slice_copy.Tensor": (a, dim, start, end, step) => slice(a, dim, start, end, step),
  "softplus.default": (a, beta, threshold) => map(a, (x) => softplusOf(x, beta, threshold)),
  "sort.default": (a, dim, descending) => sort(a, dim, descending),
  "split_with_sizes.default": (a, sizes, dim) => split(a, sizes, dim),
  "split_with_sizes_copy.default": (a, sizes, dim) => split(a, sizes, dim),
  "sqrt.default": (a) => map(a, Math.sqrt),
  "squeeze.dims": (a, dims) => squeeze(a, dims),
  "squeeze_copy.dims": (a, dims) => squeeze(a, dims),
  "sub.Scalar": (a, b, alpha) => map2(a, b, (x, y) => x - alpha * y),
  "sub.Tensor": (a, b, alpha) => map2(a, b, (x, y) => x - alpha * y),
  "sum.default": (a) => reduce(a, null, false, 0, plus),
  "sum.dim_IntList": (a, dims, keep) => reduce(a, dims, keep, 0, plus),
  "t_copy.default": (a) => (a.shape.length < 2 ? a : transposeLast(a)),
  "tan.default": (a) => map(a, Math.tan),
  "tanh.default": (a) => map(a, Math.tanh),
  "tril.default": (a, offset) => triangle(a, offset, true),
  "triu.default": (a, offset) => triangle(a, offset, false),
  "trunc.default": (a) => map(a, Math.trunc),
  "uniform.default": (a, low, high, _, random) => drawn(random, a.shape, () => low + (high - low) * random.uniform()),
  "unsqueeze.default": (a, dim) => unsqueeze(a, dim),
  "unsqueeze_copy.default": (a, dim) => unsqueeze(a, dim),
  "view.default": (a, shape) => view(a, shape),
  "view_copy.default": (a, shape) => view(a, shape),
  "where.self": (test, a, b) => where(test, a, b),
  "zeros_like.default": (a) => filled(a.shape, 0),
};

// ---------------------------------------------------------------- graphs

function isReference(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function resolved(value, results) {
  if (Array.isArray(value)) return value.map((each) => resolved(each, results));
  if (!isReference(value)) return value;
  return "node" in value ? results[value.node] : Number(value.number.replace("inf", "Infinity"));
}

function referred(value) {
  if (Array.isArray(value)) return value.flatMap(referred);
  return isReference(value) && "node" in value ? [value.node] : [];
}

const RANDOM = new Set([
  "_sample_dirichlet.default", "_standard_gamma.default", "bernoulli.default", "bernoulli.p", "binomial.default",
  "cauchy.default", "exponential.default", "multinomial.default", "normal.Tensor_Tensor", "normal_functional.default",
  "poisson.default", "rand.default", "rand_like.default", "randn.default", "randn_like.default", "uniform.default",
]);

// What of a graph depends on neither its inputs nor noise, transposed weights say, is computed once.
function whichMove(nodes) {
  const moves = [];
  nodes.forEach(([name, ...given], i) => {
    moves[i] = name === "input" || RANDOM.has(name) || given.flatMap(referred).some((place) => moves[place]);
  });
  return moves;
}

function computed([name, ...given], results, inputs, tensors, random) {
  if (name === "input") return inputs[given[0]];
  if (name === "tensor") return tensors[given[0]];
  return OPERATIONS[name](...given.map((value) => resolved(value, results)), random);
}

// A graph of the payload as a function of its inputs and a source of random numbers; returns its results, as tensors.
export function makeGraph({ nodes, outputs }, tensors) {
  const moves = whichMove(nodes);
  const still = [];
  nodes.forEach((node, i) => {
    if (!moves[i]) still[i] = computed(node, still, [], tensors, null);
  });
  return (inputs, random) => {
    const results = still.slice();
    nodes.forEach((node, i) => {
      if (moves[i]) results[i] = computed(node, results, inputs, tensors, random);
    });
    return outputs.map((place) => results[place]);
  };
}
