// Small makers of elements. Text of the user's is always set as text, never read as markup.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  apply(made, attributes);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  apply(made, attributes);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function apply(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (name === "text") made.textContent = value;
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
}

export function button(words, heard, attributes = {}) {
  return element("button", { type: "button", on: { click: heard }, ...attributes }, words);
}

// A "?" that opens an explanation, by mouse, touch or keyboard; it says of what, unless that stands beside it.
export function hint(about, words, beside = false) {
  const summary = element("summary", { "aria-label": `What is ${about}?` }, beside ? "?" : `? ${about}`);
  return element("details", { class: "hint" }, summary, element("p", {}, words));
}

export function choice(label, options, value, heard) {
  const made = element("select", { on: { change: () => heard(made.value) } });
  made.append(...options.map(([key, words]) => element("option", { value: key }, words)));
  made.value = value;
  return element("label", {}, label, made);
}

export function panel(title, ...children) {
  return element("section", { class: "panel", "aria-label": title }, element("h2", {}, title), ...children);
}

// Panels in columns, the first the widest; on a narrow screen below each other.
export function columns(...parts) {
  return element("div", { class: "columns" }, parts.map((panels) => element("div", {}, panels)));
}

export function nats(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}

export function withError(value, se, digits = 2) {
  return Number.isFinite(se) ? `${nats(value, digits)} ± ${nats(se, digits)}` : nats(value, digits);
}

export function plainNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const words = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return (size >= 1e4 && size < 1e6 ? Number(words).toLocaleString("en") : words).replace("-", "−");
}

// Names and numbers side by side.
export function numbers(pairs) {
  const list = pairs.flatMap(([name, value, about]) => [
    element("dt", {}, name, about ? " " : null, about ? hint(name, about, true) : null),
    element("dd", {}, value),
  ]);
  return element("dl", { class: "numbers" }, list);
}

// Other numbers of the same names in their place, so that an explanation which somebody opened stays open.
export function renew(place, title, pairs) {
  const names = pairs.map(([name]) => name).join();
  if (place.dataset.names !== names) place.replaceChildren(element("h3", {}), numbers(pairs));
  place.dataset.names = names;
  place.querySelector("h3").textContent = title;
  place.querySelectorAll("dd").forEach((said, i) => (said.textContent = pairs[i][1]));
}

let spokenLater = 0;

// Tell a screen reader, not more often than it can speak.
export function say(words) {
  clearTimeout(spokenLater);
  spokenLater = setTimeout(() => {
    document.getElementById("spoken").textContent = words;
  }, 400);
}

export const WORDS = {
  bound:
    "A lower limit of log p(x): the mean over draws from the guide of log p(x|z) + log p(z) − log q(z|x), in nats per datum. Larger is better.",
  evidence:
    "log p(x), in nats: how probable the model finds this datum. Estimated by importance sampling with draws from the guide; ± is the standard error of the estimate.",
  khat: "The Pareto tail index of the importance weights. Above 0.7 the estimate of log p(x) and its error are not to be trusted.",
  effective:
    "How many draws from p(z|x) itself the weighted draws are worth. Where they are few, log p(x) comes out too low rather than too high, and its ± too small.",
  kl: "KL(q(z|x) || p(z)), in nats: how far the guide's posterior is from the prior; what z tells of x costs this much.",
  reconstruction: "The mean over draws from the guide of log p(x|z), in nats: how well x is told by its latents.",
  active: "A latent dimension is active where its posterior mean varies over the data by more than a threshold; others carry nothing.",
  gaps: "From the bound to log p(x): the amortisation gap closes when q is optimised for each datum, the approximation gap when q may have any shape.",
  snr: "Mean of a gradient over its standard deviation, for each estimator and number of particles: below 1 a step is mostly noise.",
};
