// What is shown, kept in the address after #, so that a link shows the same and back goes back.

const WHOLE = new Set(["run", "across", "up", "datum", "to", "seed"]);
const START = { view: "map", run: 0, axes: "z", across: null, up: null, datum: 0, to: 1, seed: 1, z: null, x: null };
const STEPS = new Set(["view", "run"]); // which make an entry of their own in the history

const PAUSE = 350; // milliseconds: Safari refuses more than 100 addresses in 30 seconds, Chromium 200 in 10

export function makeState(changed) {
  const state = { ...START, ...read(location.hash) };
  let later = 0; // when the address follows what is dragged or painted
  const keep = () => {
    clearTimeout(later);
    later = 0;
    history.replaceState(null, "", `#${written(state)}`);
  };
  addEventListener("pagehide", keep);
  state.set = (changes) => {
    const step = Object.keys(changes).some((key) => STEPS.has(key) && changes[key] !== state[key]);
    if (step) keep(); // so that back goes to what was shown last
    Object.assign(state, changes);
    if (step) history.pushState(null, "", `#${written(state)}`);
    else later ||= setTimeout(keep, PAUSE);
    changed(Object.keys(changes));
  };
  const again = () => {
    clearTimeout(later);
    later = 0;
    Object.assign(state, START, read(location.hash));
    changed(["view", "run"]);
  };
  addEventListener("popstate", again);
  addEventListener("hashchange", again);
  return state;
}

function read(hash) {
  const found = {};
  for (const [key, text] of new URLSearchParams(hash.slice(1))) {
    if (key === "z" || key === "x") found[key] = numbersOf(text);
    else if (WHOLE.has(key) && /^\d{1,9}$/.test(text)) found[key] = Number(text);
    else if (key === "view" || key === "axes") found[key] = text;
  }
  return found;
}

// Numbers between commas, nothing for a gap; null where a word is no number.
function numbersOf(text) {
  const words = text.split(",");
  const right = words.every((word) => word === "" || Number.isFinite(Number(word)));
  return right ? Float64Array.from(words, (word) => (word === "" ? NaN : Number(word))) : null;
}

function written(state) {
  const said = new URLSearchParams();
  for (const key of ["view", "run", "axes", "across", "up", "datum", "to", "seed"]) if (state[key] !== null) said.set(key, state[key]);
  if (state.z) said.set("z", Array.from(state.z, (value) => Number(value.toPrecision(6))).join(","));
  // A datum that was drawn or typed, where it is short enough for an address.
  if (state.x && state.x.length <= 1024) said.set("x", Array.from(state.x, (v) => (v === v ? Number(v.toPrecision(7)) : "")).join(","));
  return said.toString().replaceAll("%2C", ",");
}
