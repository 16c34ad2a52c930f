// Sorting and filtering: an addition, the page says everything without it.
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

// Chips: within a facet any of those that are chosen, all facets together; none chosen is all.
function addFacets(bar) {
  const boxes = [...bar.querySelectorAll("input")];
  const facets = [...new Set(boxes.map((box) => box.name))];
  const marks = [...document.querySelectorAll("[data-mark]")];
  const [said, all] = [bar.querySelector("output"), bar.querySelector("button")];
  const distinct = (some) => new Set(some.map((mark) => mark.dataset.mark)).size;
  const apply = () => {
    const chosen = facets
      .map((facet) => [facet, boxes.filter((box) => box.name === facet && box.checked).map((box) => box.value)])
      .filter(([, values]) => values.length);
    const shown = (mark) => chosen.every(([facet, values]) => values.includes(mark.dataset[facet]));
    for (const mark of marks) mark.toggleAttribute("data-out", !shown(mark));
    for (const group of document.querySelectorAll("[data-group]")) {
      group.toggleAttribute("data-out", !group.querySelector("[data-mark]:not([data-out])"));
    }
    for (const line of document.querySelectorAll("polyline.front")) drawFront(line);
    said.textContent = `${distinct(marks.filter(shown))} of ${distinct(marks)} ${said.dataset.what} shown`;
    all.hidden = !chosen.length;
  };
  bar.addEventListener("change", apply);
  all.addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    apply();
  });
  bar.hidden = false;
  apply(); // a browser remembers over a reload what was chosen
}

// The steps through the shown points that none is both left of and above.
function drawFront(line) {
  const points = [...line.parentElement.querySelectorAll("[data-mark]:not([data-out]) circle:not(.area)")]
    .map((dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))])
    .sort(([x, y], [otherX, otherY]) => x - otherX || y - otherY);
  line.parentElement.classList.toggle("few", points.length <= Number(line.dataset.crowd)); // room for every name
  const corners = [];
  let best = Infinity;
  for (const [x, y] of points) {
    if (y >= best) continue;
    corners.push([x, corners.length ? best : y], [x, y]);
    best = y;
  }
  if (corners.length) corners.push([Number(line.dataset.right), best]);
  line.setAttribute("points", corners.join(" "));
}

for (const bar of document.querySelectorAll(".filters")) addFacets(bar);

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
