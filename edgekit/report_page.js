// Sorting and filtering of tables: an addition, the page says everything without it.
"use strict";

function valueOf(row, column, numeric) {
  const value = row.cells[column].dataset.value;
  return numeric ? (value === "" ? NaN : Number(value)) : value.toLowerCase();
}

function compare(a, b, numeric) {
  if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
  return a === b ? 0 : a - b;
}

function sort(table, head) {
  const numeric = "numeric" in head.dataset;
  const natural = head.dataset.first ?? "ascending";
  const other = natural === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === natural ? other : natural;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, head.cellIndex, numeric), row]);
  const known = rows.filter(([value]) => !Number.isNaN(value));
  const unknown = rows.filter(([value]) => Number.isNaN(value)); // always last
  known.sort(([a], [b]) => sign * compare(a, b, numeric));
  table.tBodies[0].append(...known.concat(unknown).map(([, row]) => row));
}

function addSorting(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}

function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const line = document.createElement("div");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  line.className = "filter";
  count.className = "soft";
  input.type = "search";
  label.append(table.dataset.filter + " ", input);
  line.append(label, count);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
  table.parentElement.before(line);
}

for (const table of document.querySelectorAll("table.sortable")) {
  addSorting(table);
  if (table.dataset.filter) addFilter(table);
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
