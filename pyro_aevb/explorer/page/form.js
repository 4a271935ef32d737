// A table's row, typed.

import { button, element, panel } from "./elements.js";

export function makeForm(app, run) {
  const fields = run.data.columns.map((column) => fieldOf(app, run, column));
  const back = button("The chosen row again", () => app.state.set({ x: null }));
  const node = panel("Change its numbers", element("form", { id: "row", on: { submit: (event) => event.preventDefault() } }, fields.map((each) => each.node)),
    element("div", { class: "row" }, back), element("p", { class: "quiet" }, "Everything beside follows."));
  const update = () => fields.forEach((each) => each.show(app.x()));
  update();
  return { node, update };
}

function fieldOf(app, run, column) {
  const place = column.places[0];
  const set = (value) => app.state.set({ x: Float64Array.from(app.x()).with(place, value) });
  const input = column.categories ? menu(column, set) : entry(column, set);
  const node = element("label", { class: "column" }, column.name, input);
  const show = (x) => {
    if (document.activeElement !== input) input.value = Number.isNaN(x[place]) ? "" : String(Number(x[place].toPrecision(6)));
  };
  return { node, show };
}

function menu(column, set) {
  const made = element("select", { on: { change: () => set(Number(made.value)) } });
  made.append(...column.categories.map((name, i) => element("option", { value: i }, name)));
  return made;
}

const SMALLEST = { count: 0, binary: 0 };

function entry(column, set) {
  const whole = column.kind === "count" || column.kind === "binary";
  const made = element("input", {
    type: "number", step: whole ? 1 : "any", min: SMALLEST[column.kind], max: column.kind === "binary" ? 1 : null,
    on: { input: () => made.value !== "" && made.validity.valid && set(Number(made.value)) },
  });
  return made;
}
