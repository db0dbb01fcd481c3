"use strict";
(() => {
const at = (id) => document.getElementById(id);
const { states, looks, steps, fields, compared, rows: written } = JSON.parse(at("data").textContent);
const rows = written.map((values) => Object.fromEntries(fields.map((name, i) => [name, values[i]])));

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const grouped = new Intl.NumberFormat("en-US");
const none = "\u2013";

function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${bytes.toFixed(Number.isInteger(bytes) ? 0 : 1)} ${UNITS[unit]}`;
}
const count = (value) => grouped.format(value);
const signed = (bytes) => `${bytes > 0 ? "+" : bytes < 0 ? "\u2212" : ""}${size(Math.abs(bytes))}`;
// Never rounded to 0 or 100 % where it is neither.
function percent(value) {
  if (value > 0 && value < 0.001) return "under 0.1 %";
  if (value < 1 && value > 0.999) return "over 99.9 %";
  return `${(value * 100).toFixed(1)} %`;
}
const seconds = (value) => `${value.toFixed(value < 10 ? 3 : 1)} s`;
const rate = (value) => (value < 1e8 ? `${(value / 1e6).toFixed(1)} MB/s` : `${(value / 1e9).toFixed(2)} GB/s`);

for (const row of rows) {
  const answered = row.error === null;
  row.state = answered ? (row.undecided ? "undecided" : "decided") : "error";
  row.share = row.pages ? row.zero / row.pages : null;
  row.rate = row.seconds > 0 && row.checked ? row.checked / row.seconds : null;
  row.sought = `${row.path}\n${row.error ?? ""}\n${row.note ?? ""}`.toLowerCase();
}
const SUMMED = ["bytes", "allocated", "pages", "zero", "hole", "normal", "undecided", "save", "seconds", "checked"];
const { compare: byName } = new Intl.Collator("en", { numeric: true });
rows.sort((a, b) => byName(a.path, b.path)).forEach((row, i) => { row.path_order = i; });

// Of what is in a column: its field, its head, and how a value is shown; no show: not a number.
const COLUMNS = [
  { field: "path", head: "Name" },
  { field: "picture", head: "Where its pages lie" },
  { field: "bytes", head: "Size", show: size },
  { field: "allocated", head: "Allocated", show: size },
  { field: "pages", head: "Pages", show: count },
  { field: "zero", head: "Zero", show: count },
  { field: "hole", head: "of which holes", show: count },
  { field: "normal", head: "Normal", show: count },
  { field: "undecided", head: "Undecided", show: count },
  { field: "share", head: "Zero share", show: percent },
  { field: "save", head: "A save would weigh", show: size },
  ...(compared ? [{ field: "grown", head: "Grew by", show: signed }] : []),
  { field: "seconds", head: "Time", show: seconds },
  { field: "rate", head: "Rate", show: rate },
];
let sorting = { field: "path", down: false };
let found = rows;
let page = 0;

function compare(a, b) {
  const { field, down } = sorting;
  const inOrder = a.path_order - b.path_order;
  if (field === "path") return down ? -inOrder : inOrder;
  const missing = (row) => row.error !== null || row[field] === null;
  if (missing(a) || missing(b)) return missing(a) - missing(b) || inOrder;
  return (down ? b[field] - a[field] : a[field] - b[field]) || inOrder;
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function line(row) {
  const name = element("th", { scope: "row" }, element("bdi", {}, row.path));
  if (row.note) name.append(element("small", {}, row.note));
  const made = element("tr", {}, name);
  if (row.error !== null) {
    made.append(element("td", { className: "error", colSpan: COLUMNS.length - 1 }, `not answered: ${row.error}`));
    return made;
  }
  for (const { field, show } of COLUMNS.slice(1)) made.append(field === "picture" ? picture(row) : cell(row, field, show));
  return made;
}

const rowOf = new WeakMap(); // of pictures

// A path for each look, not an element for each run: thousands of rows are printed.
function picture(row) {
  if (row.picture === null) return element("td", {}, none);
  const cells = row.picture;
  const drawn = svg("svg", { viewBox: `0 0 ${cells.length || 1} 1`, preserveAspectRatio: "none", role: "img" });
  drawn.setAttribute("aria-label", sharesOf(row).map(({ text }) => text).join(", "));
  const places = {};
  for (let x = 0, end; x < cells.length; x = end) {
    end = endOf(cells, x);
    if (cells[x] !== " ") places[cells[x]] = `${places[cells[x]] ?? ""}M${x} 0h${end - x}v1h${x - end}z`;
  }
  drawn.append(svg("title", {}), ...Object.entries(places).map(([look, d]) => svg("path", { class: `look-${look}`, d })));
  rowOf.set(drawn, row);
  return element("td", {}, drawn);
}

function endOf(cells, x) {
  let end = x + 1;
  while (end < cells.length && cells[end] === cells[x]) end += 1;
  return end;
}

// The tooltip of a picture is about the run of cells under the pointer.
function point(event) {
  const drawn = event.target.closest("#files svg");
  if (drawn === null) return;
  const row = rowOf.get(drawn);
  const box = drawn.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * row.picture.length;
  const cell = Math.min(Math.max(Math.floor(at), 0), row.picture.length - 1);
  let begin = cell;
  while (begin > 0 && row.picture[begin - 1] === row.picture[cell]) begin -= 1;
  drawn.querySelector("title").textContent = row.picture[cell] === " " ? "" : runText(row, begin, endOf(row.picture, begin));
}

// What a run of cells is: its pages, counted from 0, what they are, and how many of them.
function runText({ picture: cells, pages }, begin, end) {
  let each = 1; // pages of a cell, a power of two
  while (Math.ceil(pages / each) > cells.length) each *= 2;
  const look = looks.indexOf(cells[begin]);
  const [, words] = states[Math.floor(look / steps.length)];
  const shade = look % steps.length === steps.length - 1 ? "" : ` (${steps[look % steps.length]} of a cell)`;
  return `pages ${count(begin * each)} to ${count(Math.min(end * each, pages) - 1)}: ${words}${shade}`;
}

function cell(row, field, show) {
  const value = row[field];
  const made = element("td", {}, value === null ? none : show(value));
  if (value !== null && (show === size || show === signed)) made.title = `${count(value)} bytes`;
  if (field === "undecided" && value) made.className = "some";
  return made;
}

function head({ field, head: text, show }) {
  const made = element("th", { scope: "col" });
  if (field === "picture") {
    made.className = "plain name";
    made.append(text);
    return made;
  }
  if (field === "path") made.className = "first name";
  const button = element("button", { type: "button" }, text);
  button.addEventListener("click", () => {
    const down = sorting.field === field ? !sorting.down : show !== undefined;
    sorting = { field, down };
    page = 0;
    update();
  });
  made.append(button);
  made.dataset.field = field;
  return made;
}

function sums(list) {
  const answered = list.filter((row) => row.error === null);
  const sum = (field) => answered.reduce((total, row) => total + (row[field] ?? 0), 0);
  const total = Object.fromEntries(SUMMED.map((field) => [field, sum(field)]));
  return { ...total, errors: list.length - answered.length };
}

function shareOf(total, field) {
  return [total.pages ? percent(total[field] / total.pages) : none, `${count(total[field])} pages`];
}

function drawTotals(list) {
  const total = sums(list);
  const of = (part, whole, what) => (whole ? `${percent(part / whole)} of ${what}` : "");
  const figures = [
    ["Files", count(list.length), total.errors ? `${count(total.errors)} not answered` : ""],
    ["RAM", size(total.bytes), `${count(total.pages)} pages`],
    ["Allocated", size(total.allocated), of(total.allocated, total.bytes, "RAM")],
    ["Zero", ...shareOf(total, "zero")],
    ["of which holes", ...shareOf(total, "hole")],
    ["Normal", ...shareOf(total, "normal")],
    ["Undecided pages", count(total.undecided), total.undecided ? "a save keeps them" : ""],
    ["Saves would weigh", size(total.save), of(total.save, total.bytes, "RAM")],
    ["Checking time", seconds(total.seconds), total.seconds ? rate(total.checked / total.seconds) : ""],
  ];
  at("totals").replaceChildren(
    ...figures.map(([term, value, more]) =>
      element("div", {}, element("dt", {}, term), element("dd", {}, value, element("small", {}, more)))),
  );
  drawShares(total);
}

// That of a cell most of which is in the state.
const lookOf = (number) => `look-${looks[(number + 1) * steps.length - 1]}`;

function sharesOf(row) {
  const part = { ...row, zero: row.zero - row.hole };
  return states.map(([state, words], number) => {
    const share = row.pages ? part[state] / row.pages : 0;
    return { share, number, words, text: `${words} ${percent(share)}` };
  });
}

function swatch(number) {
  const drawn = svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" });
  drawn.append(svg("rect", { width: 1, height: 1, class: lookOf(number) }));
  return drawn;
}

function drawShares(total) {
  const shares = sharesOf(total);
  let x = 0;
  const bars = shares.map(({ share, number }) => {
    const bar = svg("rect", { x: x * 1000, width: share * 1000, height: 20, class: lookOf(number) });
    x += share;
    return bar;
  });
  at("shares").replaceChildren(...bars);
  at("shares").setAttribute("aria-label", `All pages: ${shares.map(({ text }) => text).join(", ")}`);
  at("legend").replaceChildren(...shares.map(({ number, text }) => element("li", {}, swatch(number), text)));
}

function draw(list) {
  document.querySelector("#files tbody").replaceChildren(...list.map(line));
}

function drawPage() {
  const most = Number(at("most").value);
  const pages = Math.max(1, Math.ceil(found.length / most));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * most;
  draw(found.slice(first, first + most));
  const last = Math.min(first + most, found.length);
  at("pages").hidden = pages === 1;
  at("place").textContent = `page ${count(page + 1)} of ${count(pages)}`;
  // Not disabled: a button that is loses the keyboard's focus.
  for (const id of ["first", "previous"]) at(id).ariaDisabled = page === 0;
  for (const id of ["next", "last"]) at(id).ariaDisabled = page === pages - 1;
  const shown = found.length ? `; rows ${count(first + 1)} to ${count(last)} are shown` : "";
  at("shown").textContent = `${count(found.length)} of ${count(rows.length)} files${shown}`;
}

function update() {
  const text = at("text").value.trim().toLowerCase();
  const state = at("state").value;
  found = rows.filter((row) => row.sought.includes(text) && (!state || row.state === state)).sort(compare);
  for (const each of document.querySelectorAll("#files thead th[data-field]")) {
    const on = each.dataset.field === sorting.field;
    each.setAttribute("aria-sort", on ? (sorting.down ? "descending" : "ascending") : "none");
  }
  drawTotals(found);
  at("totals-title").textContent = found.length < rows.length ? "Totals of the files found" : "Totals";
  drawPage();
}

function turn(to) {
  page = to;
  drawPage();
  at("scroll").scrollTop = 0;
}

document.querySelector("#files thead tr").append(...COLUMNS.map(head));
for (const id of ["text", "state", "most"]) {
  at(id).addEventListener("input", () => {
    page = 0;
    update();
  });
}
at("clear").addEventListener("click", () => {
  at("text").value = at("state").value = "";
  page = 0;
  update();
});
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("first").addEventListener("click", () => turn(0));
at("previous").addEventListener("click", () => turn(page - 1));
at("next").addEventListener("click", () => turn(page + 1));
at("last").addEventListener("click", () => turn(Infinity));
document.querySelector("#files tbody").addEventListener("pointermove", point);
addEventListener("beforeprint", () => {
  draw(found);
  at("shown").textContent = `${count(found.length)} of ${count(rows.length)} files`;
});
addEventListener("afterprint", drawPage);
for (const section of document.querySelectorAll("section")) section.hidden = false;
update();
})();
