"use strict";

// Sorting: each column's name becomes a button; a cell is sorted by its number, else by its text.
function keyOf(row, column) {
  const cell = row.cells[column];
  const told = cell.dataset.value ?? cell.textContent.trim().replaceAll(",", "");
  const number = told === "" ? NaN : Number(told);
  return Number.isNaN(number) ? cell.textContent.trim() : number;
}

function compared(one, other) {
  const numbers = typeof one === "number" && typeof other === "number";
  return numbers ? one - other : String(one).localeCompare(String(other));
}

function sortBy(table, column, head) {
  const sign = head.ariaSort === "ascending" ? -1 : 1;
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => sign * compared(keyOf(a, column), keyOf(b, column)));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.ariaSort = sign === 1 ? "ascending" : "descending";
  body.append(...rows);
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column, head));
    head.append(button);
  });
}

// Curves: a name in the legend hides its own; while a name has the pointer or the focus, the others fade.
function curvesOf(button) {
  const section = button.closest("section");
  return [...section.querySelectorAll(".curves .curve")].map((curve) => [curve, curve.dataset.curve === button.dataset.curve]);
}

function toggle(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(shown));
  for (const [curve, own] of curvesOf(button)) if (own) curve.classList.toggle("hidden", !shown);
}

function fade(button, others) {
  for (const [curve, own] of curvesOf(button)) curve.classList.toggle("faded", others && !own);
}

function makeLegend(button) {
  button.addEventListener("click", () => toggle(button));
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => fade(button, true));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => fade(button, false));
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
}

document.querySelectorAll("table:not(.matrix):not(.values)").forEach(makeSortable);
document.querySelectorAll(".legend button").forEach(makeLegend);
const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", switchTheme);
