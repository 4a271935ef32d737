// A table's row, typed.

import { button, element, panel } from "./elements.js";

export function makeForm(app, run) {
  const fields = run.data.columns.map((column) => fieldOf(app, run, column));
  const back = button("The chosen row again", () => app.state.set({ x: null, z: null }));
  const node = panel("Change its numbers", element("form", { id: "row", on: { submit: (event) => event.preventDefault() } }, fields.map((each) => each.node)),
    element("div", { class: "row" }, back), element("p", { class: "quiet" }, `Everything beside follows.${run.hasGaps ? " A field left empty is a gap: the numbers are of the others." : ""}`));
  const update = () => fields.forEach((each) => each.show(app.x()));
  update();
  return { node, update };
}

function fieldOf(app, run, column) {
  const place = column.places[0];
  const set = (value) => app.state.set({ x: Float64Array.from(app.x()).with(place, value), z: null });
  const input = column.categories ? menu(column, run.hasGaps, set) : entry(column, run.hasGaps, set);
  const node = element("label", { class: "column" }, column.name, input);
  const show = (x) => {
    if (document.activeElement !== input) input.value = Number.isNaN(x[place]) ? "" : String(Number(x[place].toPrecision(6)));
  };
  return { node, show };
}

function menu(column, gaps, set) {
  const made = element("select", { on: { change: () => set(made.value === "" ? NaN : Number(made.value)) } });
  if (gaps) made.append(element("option", { value: "" }, "(missing)"));
  made.append(...column.categories.map((name, i) => element("option", { value: i }, name)));
  return made;
}

const SMALLEST = { count: 0, binary: 0 };

// A field left empty is a gap where the run's own data have some; elsewhere it waits for a number.
function entry(column, gaps, set) {
  const whole = column.kind === "count" || column.kind === "binary";
  const made = element("input", {
    type: "number", step: whole ? 1 : "any", min: SMALLEST[column.kind], max: column.kind === "binary" ? 1 : null,
    required: !gaps, placeholder: gaps ? "missing" : null,
    on: { input: () => made.validity.valid && set(made.value === "" ? NaN : Number(made.value)) },
  });
  return made;
}
