// The spans of the memory, and what is said about cells of them.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

function sizeText(bytes) {
  let unit = 0;
  let left = bytes;
  while (left >= 1024 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${Number.isInteger(left) ? left : left.toFixed(1)} ${UNITS[unit]}`;
}

const hex = (number) => `0x${number.toString(16)}`;
const grouped = (number) => number.toLocaleString("en-US");
const pagesText = (pages) => `${grouped(pages)} page${pages === 1 ? "" : "s"}`;

// The spans with their first position, units, address, and the number of the first unit if units
// were counted from address 0 on.
function spansOf(about, runs) {
  const unit = BigInt(about.page_size * runs.unitPages);
  return about.spans.map((given, number) => {
    const span = {
      ...given,
      start: about.runs.starts[number],
      units: Math.ceil(given.pages / runs.unitPages),
      address: given.address === null ? null : BigInt(given.address),
    };
    // Of a number of more than 53 bits the lower part will do: it is for rows to be round.
    span.number = Number((addressOf(about, span, 0) / unit) % (1n << 40n));
    return span;
  });
}

// The address of a page of a span: guest-physical, or the offset in its block.
function addressOf(about, span, page) {
  const bytes = BigInt(page) * BigInt(about.page_size);
  return span.address === null
    ? BigInt(span.first) * BigInt(about.page_size) + bytes
    : span.address + bytes;
}

// What a cell is: its block, first page there, pages, counts, address, and all that as a text. Of a
// cell with pages of several spans the first one, and how many more there are.
//
// Of the memory there are `about`, `runs`, `spans`, and the `starts` of these.
function describe({ about, runs, spans, starts }, position, end) {
  const counts = runs.countsOf(position, end);
  const found = lastNotAbove(starts, position, starts.length);
  // A cell of the curve may begin between two spans.
  const behind = position >= spans[found].start + spans[found].units;
  const at = behind && found + 1 < spans.length ? found + 1 : found;
  const span = spans[at];
  const first = (Math.max(position, span.start) - span.start) * runs.unitPages;
  const last = Math.min((end - span.start) * runs.unitPages, span.pages);
  const pages = Math.max(0, last - first);
  const others = lastNotAbove(starts, end - 1, starts.length) - at;
  const address = addressOf(about, span, first);
  const block = about.blocks[span.block];
  const kind = span.address === null ? "offset" : "guest-physical";
  const there = about.states
    .map((state, number) => [state.words, counts[number]])
    .filter(([, count]) => count > 0);
  const held =
    there.length === 1
      ? there[0][0]
      : there.map(([text, count]) => `${text} ${grouped(count)}`).join(", ");
  const number = span.first + first;
  const until = pages === 1 ? "" : ` to ${hex(addressOf(about, span, last) - 1n)}`;
  const which = pages === 1 ? "" : `${pagesText(pages)} from `;
  const more = others > 0 ? `, and ${others} more part${others > 1 ? "s" : ""}` : "";
  const size = sizeText(pages * about.page_size);
  const place = `${hex(address)}${until} (${which}page ${grouped(number)}, ${size})`;
  const text = pages ? `${block}, ${kind} ${place}${more}: ${held}` : "No pages: between two parts.";
  return { block, first: number, pages, counts, address: hex(address), text };
}

// The position of what is at an address, or why there is none.
function positionAt({ about, runs, spans }, text) {
  if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(text)) return "Write an address such as 0x100000.";
  const wanted = BigInt(text);
  for (const span of spans) {
    const first = addressOf(about, span, 0);
    if (wanted >= first && wanted < addressOf(about, span, span.pages)) {
      const page = Number((wanted - first) / BigInt(about.page_size));
      return span.start + Math.floor(page / runs.unitPages);
    }
  }
  return `There is no RAM at ${hex(wanted)} here.`;
}

// What a cell of a layout is, and a row.
function scaleText({ about, runs }, layout) {
  const pages = layout.units * runs.unitPages;
  const bytes = pages * about.page_size;
  const row = layout.columns ? `, each row ${sizeText(bytes * layout.columns)}` : "";
  return `Each cell is ${sizeText(bytes)} (${pagesText(pages)})${row}.`;
}
