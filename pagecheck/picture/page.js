"use strict";
// Draws the map of memory. Positions are units (one page, or several) in the order of the picture;
// a cell is a run of units, and its counts are the difference of two sums over the runs before it.
(() => {
  const element = (id) => document.getElementById(id);
  const about = JSON.parse(element("data").textContent);
  const map = element("map");
  const tooltip = element("tooltip");
  const where = element("where");
  const runs = about.runs;
  const states = about.states.length;
  const spans = about.spans.map((span, number) => ({
    ...span,
    start: runs.starts[number],
    units: Math.ceil(span.pages / runs.unit_pages),
    address: span.address === null ? null : BigInt(span.address),
  }));
  const CELL = 3; // pixels of a cell, at least, each way
  const CELL_MAX = 32;
  const LABEL = 14; // pixels of a line of text
  const ORDER = orderOf(runs.end);

  function orderOf(units) {
    let order = 0;
    while (4 ** order < units) order += 1;
    return order;
  }

  // ---- the data ----

  let starts; // position where each run begins, and the end
  let sums; // of each state the pages before each run
  let perUnit; // (run, state) -> pages of the state in a unit of the run

  async function decode() {
    const packed = Uint8Array.from(atob(runs.data), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    let at = 0;
    const columns = runs.widths.map((width) => {
      const column = new Uint32Array(runs.runs);
      for (let plane = 0; plane < width; plane += 1) {
        const factor = 2 ** (8 * plane);
        for (let run = 0; run < runs.runs; run += 1) column[run] += bytes[at + run] * factor;
        at += runs.runs;
      }
      return column;
    });
    const [lengths, ...values] = columns;
    const [single] = values;
    perUnit = runs.single
      ? (run, state) => (single[run] === state ? 1 : 0)
      : (run, state) => values[state][run];
    starts = new Float64Array(runs.runs + 1);
    sums = Array.from({ length: states }, () => new Float64Array(runs.runs + 1));
    for (let run = 0; run < runs.runs; run += 1) {
      starts[run + 1] = starts[run] + lengths[run];
      for (let state = 0; state < states; state += 1) {
        sums[state][run + 1] = sums[state][run] + lengths[run] * perUnit(run, state);
      }
    }
  }

  // The last index whose value is not above what is looked for.
  function lastNotAbove(values, wanted, count) {
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (values(middle) <= wanted) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function runAt(position) {
    let low = 0;
    let high = runs.runs - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // The pages of each state from one position to another.
  function countsOf(begin, end) {
    const found = new Array(states).fill(0);
    const stop = Math.min(end, runs.end);
    if (begin >= stop) return found;
    const first = runAt(begin);
    const last = runAt(stop - 1);
    for (let state = 0; state < states; state += 1) {
      const before = sums[state][first] + (begin - starts[first]) * perUnit(first, state);
      const after = sums[state][last] + (stop - starts[last]) * perUnit(last, state);
      found[state] = after - before;
    }
    return found;
  }

  // As palette.py: the state that is seen, and its shade; null without pages.
  function look(counts) {
    let tier = -1;
    let pages = 0;
    for (let state = 0; state < states; state += 1) {
      if (counts[state] > 0) tier = Math.max(tier, about.states[state].tier);
      pages += counts[state];
    }
    if (tier < 0) return null;
    let most = -1;
    let loud = 0;
    for (let state = 0; state < states; state += 1) {
      if (about.states[state].tier !== tier) continue;
      loud += counts[state];
      if (most < 0 || counts[state] > counts[most]) most = state;
    }
    return [most, (loud * about.few > pages ? 1 : 0) + (loud * about.some > pages ? 1 : 0)];
  }

  // ---- where cells are ----

  let layoutName = element("layout").value;
  let level = 0; // a cell has 4 ** level units on the curve, 2 ** level in rows
  let pixels = CELL; // of a cell, each way
  let offset = [0, 0]; // pixels of the picture left of and above the view
  let columns = 1; // of rows
  let rowStarts = []; // of rows: the first row of each span
  let size = [1, 1]; // of the picture, in cells
  let cursor = null; // the position that the keyboard has marked
  let hovered = null;

  const unitsOfCell = () => (layoutName === "hilbert" ? 4 : 2) ** level;

  function curvePlace(distance, order) {
    let [x, y, left] = [0, 0, distance];
    for (let bit = 0; bit < order; bit += 1) {
      const side = 2 ** bit;
      const quarter = left % 4;
      if (quarter === 0) [x, y] = [y, x];
      else if (quarter === 3) [x, y] = [side - 1 - y, side - 1 - x];
      if (quarter === 1 || quarter === 2) x += side;
      if (quarter >= 2) y += side;
      left = Math.floor(left / 4);
    }
    return [x, y];
  }

  function curveDistance(column, row, order) {
    let [x, y, distance] = [column, row, 0];
    for (let bit = order - 1; bit >= 0; bit -= 1) {
      const side = 2 ** bit;
      const right = x >= side;
      const below = y >= side;
      const quarter = below ? (right ? 2 : 3) : right ? 1 : 0;
      if (right) x -= side;
      if (below) y -= side;
      if (quarter === 0) [x, y] = [y, x];
      else if (quarter === 3) [x, y] = [side - 1 - y, side - 1 - x];
      distance = distance * 4 + quarter;
    }
    return distance;
  }

  // Width and height that the first places of a curve take.
  function curveSize(length, order) {
    if (order === 0 || length <= 1) return [1, 1];
    const quarter = 4 ** (order - 1);
    const side = 2 ** (order - 1);
    const full = Math.ceil(length / quarter) - 1;
    const [width, height] = curveSize(length - full * quarter, order - 1);
    if (full === 0) return [height, width];
    if (full === 1) return [side + width, side];
    return full === 2 ? [2 * side, side + height] : [2 * side, 2 * side];
  }

  const curveOrder = () => Math.max(0, ORDER - level);

  // The position where the cell at a place begins; -1 where there is none.
  function cellAt(x, y) {
    if (x < 0 || y < 0 || x >= size[0] || y >= size[1]) return -1;
    const units = unitsOfCell();
    if (layoutName === "hilbert") {
      const position = curveDistance(x, y, curveOrder()) * units;
      return position < runs.end ? position : -1;
    }
    const number = lastNotAbove((each) => rowStarts[each], y, spans.length);
    const within = ((y - rowStarts[number]) * columns + x) * units;
    return within < spans[number].units ? spans[number].start + within : -1;
  }

  function spanOf(position) {
    return lastNotAbove((each) => spans[each].start, position, spans.length);
  }

  function placeOf(position) {
    const units = unitsOfCell();
    if (layoutName === "hilbert") return curvePlace(Math.floor(position / units), curveOrder());
    const number = spanOf(position);
    const cell = Math.floor((position - spans[number].start) / units);
    return [cell % columns, rowStarts[number] + Math.floor(cell / columns)];
  }

  // The position behind the last unit of a cell: in rows no cell has two spans.
  function cellEnd(position) {
    const end = position + unitsOfCell();
    if (layoutName === "hilbert") return Math.min(end, runs.end);
    const span = spans[spanOf(position)];
    return Math.min(end, span.start + span.units);
  }

  function measure() {
    if (layoutName === "hilbert") {
      size = curveSize(Math.ceil(runs.end / unitsOfCell()), curveOrder());
      return;
    }
    columns = 16;
    while (columns * 2 * pixels <= view()[0]) columns *= 2;
    let row = 0;
    rowStarts = spans.map((span) => {
      const begin = row;
      row += Math.ceil(span.units / (unitsOfCell() * columns));
      return begin;
    });
    size = [columns, row];
  }

  // ---- what is said about a cell ----

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

  function addressOf(span, page) {
    const bytes = BigInt(page) * BigInt(about.page_size);
    return span.address === null
      ? BigInt(span.first) * BigInt(about.page_size) + bytes
      : span.address + bytes;
  }

  // What a cell is: block, first page in it, pages, counts, address, text.
  function describe(position) {
    const end = cellEnd(position);
    const counts = countsOf(position, end);
    const number = spanOf(position);
    // A cell of the curve may begin between two spans.
    const behind = position >= spans[number].start + spans[number].units;
    const at = behind ? number + 1 : number;
    const span = spans[at];
    const begin = Math.max(position, span.start);
    const first = (begin - span.start) * runs.unit_pages;
    const last = Math.min((end - span.start) * runs.unit_pages, span.pages);
    const pages = last - first;
    const others = spanOf(end - 1) - at;
    const address = addressOf(span, first);
    const name = about.blocks[span.block];
    const what = span.address === null ? "offset" : "guest-physical";
    const there = about.states
      .map((state, index) => [state.words, counts[index]])
      .filter(([, count]) => count > 0);
    const held =
      there.length === 1 ? there[0][0] : there.map(([text, n]) => `${text} ${grouped(n)}`).join(", ");
    const until = pages === 1 ? "" : ` to ${hex(addressOf(span, last) - 1n)}`;
    const many = pages === 1 ? `page ${grouped(span.first + first)}` : `${grouped(pages)} pages from page ${grouped(span.first + first)}`;
    const more = others > 0 ? `, and ${others} more part${others > 1 ? "s" : ""}` : "";
    return {
      block: name,
      first: span.first + first,
      pages,
      counts,
      address: hex(address),
      text: `${name}, ${what} ${hex(address)}${until} (${many}, ${sizeText(pages * about.page_size)})${more}: ${held}`,
    };
  }

  // ---- drawing ----

  const widest = Math.max(...spans.map((span) => hex(addressOf(span, span.pages)).length));
  const gutter = () => [widest * 8 + 10, layoutName === "hilbert" ? LABEL + 4 : 4];
  const view = () => [Math.max(1, map.clientWidth - gutter()[0]), Math.max(1, map.clientHeight - gutter()[1])];

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function palette() {
    const theme = isDark() ? "dark" : "light";
    return about.states.map((state) =>
      state[theme].map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))),
    );
  }

  function clamp() {
    const room = view();
    offset = offset.map((each, axis) =>
      Math.max(0, Math.min(Math.round(each), size[axis] * pixels - room[axis])),
    );
  }

  function draw() {
    if (!starts) return;
    clamp();
    const ratio = window.devicePixelRatio || 1;
    map.width = Math.round(map.clientWidth * ratio);
    map.height = Math.round(map.clientHeight * ratio);
    const pen = map.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const room = view();
    const [left, top] = gutter();
    const firstX = Math.floor(offset[0] / pixels);
    const firstY = Math.floor(offset[1] / pixels);
    const across = Math.min(size[0] - firstX, Math.ceil(room[0] / pixels) + 1);
    const down = Math.min(size[1] - firstY, Math.ceil(room[1] / pixels) + 1);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, room[0], room[1]);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(
      cellsAsImage(firstX, firstY, across, down),
      left + firstX * pixels - offset[0],
      top + firstY * pixels - offset[1],
      across * pixels,
      down * pixels,
    );
    outline(pen, hovered, 1);
    if (document.activeElement === map) outline(pen, cursor, 2);
    pen.restore();
    labels(pen, room);
    element("scale").textContent = scaleText();
  }

  let drawn = ["", null]; // the cells that were drawn last: only marks move with the pointer

  function cellsAsImage(firstX, firstY, across, down) {
    const what = [layoutName, level, columns, firstX, firstY, across, down, isDark()].join();
    if (what === drawn[0]) return drawn[1];
    const image = new OffscreenCanvas(across, down);
    const pen = image.getContext("2d");
    const cells = pen.createImageData(across, down);
    const colours = palette();
    for (let y = 0; y < down; y += 1) {
      for (let x = 0; x < across; x += 1) {
        const position = cellAt(firstX + x, firstY + y);
        if (position < 0) continue;
        const seen = look(countsOf(position, cellEnd(position)));
        if (seen === null) continue;
        const at = 4 * (y * across + x);
        [cells.data[at], cells.data[at + 1], cells.data[at + 2]] = colours[seen[0]][seen[1]];
        cells.data[at + 3] = 255;
      }
    }
    pen.putImageData(cells, 0, 0);
    drawn = [what, image];
    return image;
  }

  function outline(pen, position, width) {
    if (position === null) return;
    const [x, y] = placeOf(position);
    const [left, top] = gutter();
    const [atX, atY] = [left + x * pixels - offset[0], top + y * pixels - offset[1]];
    pen.lineWidth = width;
    for (const [colour, out] of [["#000000", 2 * width], ["#ffffff", width]]) {
      pen.strokeStyle = colour;
      pen.strokeRect(atX - out + 0.5, atY - out + 0.5, pixels + 2 * out - 1, pixels + 2 * out - 1);
    }
  }

  function scaleText() {
    const pages = unitsOfCell() * runs.unit_pages;
    const bytes = sizeText(pages * about.page_size);
    const row = layoutName === "rows" ? `, each row ${sizeText(columns * pages * about.page_size)}` : "";
    return `Each cell is ${bytes} (${grouped(pages)} page${pages === 1 ? "" : "s"})${row}.`;
  }

  // Addresses at the left and, of a curve, at the top: of the cells, or squares of them, there.
  function labels(pen, room) {
    const style = getComputedStyle(document.documentElement);
    pen.fillStyle = style.getPropertyValue("--faint");
    pen.font = `${LABEL - 2}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const [left, top] = gutter();
    let step = 1;
    const apart = layoutName === "hilbert" ? 96 : LABEL;
    while (step * pixels < apart) step *= 2;
    const write = (x, y, atX, atY, align) => {
      const position = cellAt(x, y);
      if (position < 0) return;
      pen.textAlign = align;
      const number = spanOf(position);
      const span = spans[number];
      const page = Math.max(0, position - span.start) * runs.unit_pages;
      pen.fillText(hex(addressOf(span, page)), atX, atY);
    };
    const firstX = Math.ceil(offset[0] / pixels / step) * step;
    const firstY = Math.ceil(offset[1] / pixels / step) * step;
    for (let y = firstY; y < size[1] && y * pixels - offset[1] < room[1]; y += step) {
      const entry = layoutName === "hilbert" ? squareEntry(firstX, y, step) : [0, y];
      write(...entry, left - 6, top + y * pixels - offset[1], "right");
    }
    if (layoutName !== "hilbert") return;
    for (let x = firstX; x < size[0] && x * pixels - offset[0] < room[0]; x += step) {
      write(...squareEntry(x, firstY, step), left + x * pixels - offset[0], 2, "left");
    }
  }

  // The cell where the curve enters a square of cells: that of the lowest position.
  function squareEntry(x, y, side) {
    const order = curveOrder();
    const distance = curveDistance(x, y, order);
    return curvePlace(distance - (distance % (side * side)), order);
  }

  // ---- moving ----

  function positionInView() {
    if (cursor !== null) return cursor;
    const room = view();
    const x = Math.floor((offset[0] + Math.min(room[0], size[0] * pixels) / 2) / pixels);
    const y = Math.floor((offset[1] + Math.min(room[1], size[1] * pixels) / 2) / pixels);
    return Math.max(0, cellAt(x, y));
  }

  // Zooms in (1) or out (-1); the position stays where it is in the view.
  function zoom(by, position, point) {
    const kept = position ?? positionInView();
    const before = placeOf(kept).map((each, axis) => (each + 0.5) * pixels - offset[axis]);
    const at = point ?? before;
    if (by > 0) {
      if (level > 0) level -= 1;
      else pixels = Math.min(2 * pixels, CELL_MAX);
    } else if (level === 0 && pixels >= 2 * CELL && !isWhole()) pixels = Math.ceil(pixels / 2);
    else if (!isWhole()) level += 1;
    measure();
    offset = placeOf(kept).map((each, axis) => (each + 0.5) * pixels - at[axis]);
    draw();
  }

  function isWhole() {
    const room = view();
    return size[0] * pixels <= room[0] && size[1] * pixels <= room[1];
  }

  function fit() {
    pixels = CELL;
    level = 0;
    offset = [0, 0];
    measure();
    while (!isWhole() && unitsOfCell() < runs.end) {
      level += 1;
      measure();
    }
    while (isWhole() && pixels < CELL_MAX) {
      pixels += 1;
      measure();
    }
    if (!isWhole()) pixels -= 1;
    measure();
    hovered = null;
    tooltip.hidden = true;
    draw();
  }

  function showCell(position) {
    cursor = position;
    const [x, y] = placeOf(position);
    const room = view();
    [x, y].forEach((each, axis) => {
      const low = each * pixels;
      if (low < offset[axis]) offset[axis] = low;
      if (low + pixels > offset[axis] + room[axis]) offset[axis] = low + pixels - room[axis];
    });
    where.textContent = describe(position).text;
    draw();
  }

  function goTo(position) {
    const [x, y] = placeOf(position);
    const room = view();
    offset = [x * pixels - room[0] / 2, y * pixels - room[1] / 2];
    clamp();
    showCell(cellAt(x, y) < 0 ? position : cellAt(x, y));
  }

  function moveCursor(dx, dy) {
    const [x, y] = placeOf(cursor ?? positionInView());
    const there = cellAt(x + dx, y + dy);
    if (cursor === null) showCell(Math.max(0, cellAt(x, y)));
    else if (there >= 0) showCell(there);
  }

  function lastCell() {
    const units = unitsOfCell();
    if (layoutName === "hilbert") return Math.floor((runs.end - 1) / units) * units;
    const span = spans[spans.length - 1];
    return span.start + Math.floor((span.units - 1) / units) * units;
  }

  function page(direction) {
    const rows = Math.max(1, Math.floor(view()[1] / pixels) - 1);
    const [x, y] = placeOf(cursor ?? positionInView());
    for (let by = rows; by > 0; by -= 1) {
      const there = cellAt(x, y + direction * by);
      if (there >= 0) {
        offset[1] += direction * by * pixels;
        showCell(there);
        return;
      }
    }
  }

  const KEYS = {
    ArrowLeft: () => moveCursor(-1, 0),
    ArrowRight: () => moveCursor(1, 0),
    ArrowUp: () => moveCursor(0, -1),
    ArrowDown: () => moveCursor(0, 1),
    "+": () => zoom(1),
    "=": () => zoom(1),
    "-": () => zoom(-1),
    0: () => fit(),
    PageUp: () => page(-1),
    PageDown: () => page(1),
    Home: () => showCell(0),
    End: () => showCell(lastCell()),
  };

  // ---- events ----

  function placeUnder(event) {
    const box = map.getBoundingClientRect();
    const [left, top] = gutter();
    return [event.clientX - box.left - left, event.clientY - box.top - top];
  }

  function positionUnder(event) {
    const [x, y] = placeUnder(event);
    const room = view();
    if (x < 0 || y < 0 || x >= room[0] || y >= room[1]) return -1;
    return cellAt(Math.floor((x + offset[0]) / pixels), Math.floor((y + offset[1]) / pixels));
  }

  function hover(event) {
    const position = positionUnder(event);
    const found = position < 0 ? null : describe(position);
    const empty = found === null || found.counts.every((count) => count === 0);
    hovered = empty ? null : position;
    tooltip.hidden = empty;
    if (!empty) {
      tooltip.textContent = found.text;
      where.textContent = found.text;
      const box = map.getBoundingClientRect();
      const x = event.clientX - box.left;
      const y = event.clientY - box.top;
      tooltip.style.left = `${Math.max(0, Math.min(x + 14, box.width - tooltip.offsetWidth))}px`;
      const below = y + 18 + tooltip.offsetHeight <= box.height;
      tooltip.style.top = `${below ? y + 18 : Math.max(0, y - tooltip.offsetHeight - 10)}px`;
    }
    draw();
  }

  let dragged = null;

  function listen() {
    map.addEventListener("pointerdown", (event) => {
      dragged = [event.clientX, event.clientY, ...offset];
      map.setPointerCapture(event.pointerId);
    });
    map.addEventListener("pointermove", (event) => {
      if (dragged !== null && event.buttons) {
        offset = [dragged[2] + dragged[0] - event.clientX, dragged[3] + dragged[1] - event.clientY];
        clamp();
      }
      hover(event);
    });
    map.addEventListener("pointerup", (event) => {
      const still = dragged !== null && Math.hypot(dragged[0] - event.clientX, dragged[1] - event.clientY) < 4;
      dragged = null;
      if (still && hovered !== null) showCell(hovered);
    });
    map.addEventListener("pointercancel", () => {
      dragged = null;
    });
    map.addEventListener("pointerleave", () => {
      hovered = null;
      tooltip.hidden = true;
      draw();
    });
    map.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const position = positionUnder(event);
        const by = event.deltaY < 0 ? 1 : -1;
        if (position >= 0) zoom(by, position, placeUnder(event));
        else zoom(by);
        hover(event);
      },
      { passive: false },
    );
    map.addEventListener("keydown", (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    map.addEventListener("focus", () => {
      if (cursor === null) showCell(Math.max(0, positionInView()));
      else draw();
    });
    map.addEventListener("blur", draw);
    element("zoom-in").addEventListener("click", () => zoom(1));
    element("zoom-out").addEventListener("click", () => zoom(-1));
    element("fit").addEventListener("click", fit);
    element("layout").addEventListener("change", (event) => {
      layoutName = event.target.value;
      hovered = null;
      fit();
      if (cursor !== null) goTo(cursor);
    });
    element("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      themed();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
    element("blocks").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) goTo(spans[Number(button.dataset.span)].start);
    });
    element("go").addEventListener("submit", (event) => {
      event.preventDefault();
      goToAddress(element("address").value.trim());
    });
    new ResizeObserver(() => {
      const whole = isWhole();
      measure();
      if (whole) fit();
      else draw();
    }).observe(map);
  }

  function themed() {
    element("theme").setAttribute("aria-pressed", String(isDark()));
    draw();
  }

  function goToAddress(text) {
    if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(text)) {
      where.textContent = "Write an address such as 0x100000.";
      return;
    }
    const wanted = BigInt(text);
    for (const span of spans) {
      const first = addressOf(span, 0);
      if (wanted >= first && wanted < addressOf(span, span.pages)) {
        const page = Number((wanted - first) / BigInt(about.page_size));
        goTo(span.start + Math.floor(page / runs.unit_pages));
        return;
      }
    }
    where.textContent = `There is no RAM at ${hex(wanted)} here.`;
  }

  const ready = decode().then(
    () => {
      listen();
      themed();
      fit();
    },
    (error) => {
      const failed = element("failed");
      failed.hidden = false;
      failed.textContent = `The map cannot be shown: ${error}. It needs a browser of 2023 or later.`;
      throw error;
    },
  );

  // For programs that look at the page: what is shown where.
  window.pagecheckPicture = {
    ready,
    cellAt: (clientX, clientY) => {
      const position = positionUnder({ clientX, clientY });
      return position < 0 ? null : describe(position);
    },
    zoomTo: (span, pageOfSpan) => {
      level = 0;
      pixels = 16;
      measure();
      goTo(spans[span].start + Math.floor(pageOfSpan / runs.unit_pages));
    },
    get level() {
      return level;
    },
  };
})();
