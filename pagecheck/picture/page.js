// The map and its controls. A place is a cell's column and row in the picture; `offset` says how
// many pixels of the picture are left of and above the view.
(() => {
  const CELL = 3; // pixels of a cell, at least, each way
  const CELL_MAX = 32;
  const LABEL = 14; // pixels of a line of text
  const element = (id) => document.getElementById(id);
  const about = JSON.parse(element("data").textContent);
  const [map, tooltip, where] = ["map", "tooltip", "where"].map(element);
  const runs = new Runs(about);
  const spans = spansOf(about, runs);
  const memory = { about, runs, spans, starts: about.runs.starts };
  const layouts = { hilbert: new Curve(runs.end), rows: new Rows(spans) };

  let layout = layouts[element("layout").value];
  let level = 0;
  let pixels = CELL; // of a cell, each way
  let offset = [0, 0];
  let cursor = null; // the position that the keyboard has marked
  let hovered = null; // the position under the pointer
  let dragged = null;
  let drawn = ["", null]; // the cells that were drawn last: only marks move with the pointer

  // ---- the view ----

  const isCurve = () => layout === layouts.hilbert;
  const spanOf = (position) => spans[lastNotAbove(memory.starts, position, spans.length)];
  const described = (position) => describe(memory, position, layout.cellEnd(position));
  // Offsets beside those in other blocks, or beside guest-physical addresses, have a sign.
  const alone = about.blocks.length === 1 && spans.every((span) => span.address === null);
  const widest = Math.max(...spans.map((span) => hex(addressOf(about, span, span.pages)).length));
  const gutter = () => [widest * 8 + 10, isCurve() ? LABEL + 4 : 4];

  function view() {
    const [left, top] = gutter();
    return [Math.max(1, map.clientWidth - left), Math.max(1, map.clientHeight - top)];
  }

  const measure = () => layout.measure(level, Math.floor(view()[0] / pixels));

  function isWhole() {
    const room = view();
    return layout.size.every((cells, axis) => cells * pixels <= room[axis]);
  }

  function clamp() {
    const room = view();
    offset = offset.map((each, axis) =>
      Math.max(0, Math.min(Math.round(each), layout.size[axis] * pixels - room[axis])),
    );
  }

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  // ---- drawing ----

  function draw() {
    clamp();
    const ratio = window.devicePixelRatio || 1;
    map.width = Math.round(map.clientWidth * ratio);
    map.height = Math.round(map.clientHeight * ratio);
    const pen = map.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const room = view();
    const [left, top] = gutter();
    const first = offset.map((each) => Math.floor(each / pixels));
    const cells = first.map((each, axis) =>
      Math.min(layout.size[axis] - each, Math.ceil(room[axis] / pixels) + 1),
    );
    pen.save();
    pen.beginPath();
    pen.rect(left, top, ...room);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    const [x, y] = [left + first[0] * pixels - offset[0], top + first[1] * pixels - offset[1]];
    pen.drawImage(asImage(first, cells), x, y, cells[0] * pixels, cells[1] * pixels);
    outline(pen, hovered, 1);
    if (document.activeElement === map) outline(pen, cursor, 2);
    pen.restore();
    drawLabels(pen, room);
    element("scale").textContent = scaleText(memory, layout);
  }

  // The cells from a first place on as an image of a pixel each.
  function asImage([firstX, firstY], [across, down]) {
    const theme = isDark() ? "dark" : "light";
    const what = [isCurve(), level, layout.columns, firstX, firstY, across, down, theme].join();
    if (what === drawn[0]) return drawn[1];
    const colours = about.states.map((state) =>
      state[theme].map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))),
    );
    const image = new OffscreenCanvas(across, down);
    const pen = image.getContext("2d");
    const cells = pen.createImageData(across, down);
    for (let y = 0; y < down; y += 1) {
      for (let x = 0; x < across; x += 1) {
        const position = layout.cellAt(firstX + x, firstY + y);
        if (position < 0) continue;
        const seen = runs.look(runs.countsOf(position, layout.cellEnd(position)));
        if (seen === null) continue;
        cells.data.set([...colours[seen[0]][seen[1]], 255], 4 * (y * across + x));
      }
    }
    pen.putImageData(cells, 0, 0);
    drawn = [what, image];
    return image;
  }

  function outline(pen, position, width) {
    if (position === null) return;
    const [x, y] = layout.placeOf(position);
    const [left, top] = gutter();
    const [atX, atY] = [left + x * pixels - offset[0], top + y * pixels - offset[1]];
    pen.lineWidth = width;
    for (const [colour, out] of [["#000000", 2 * width], ["#ffffff", width]]) {
      pen.strokeStyle = colour;
      pen.strokeRect(atX - out + 0.5, atY - out + 0.5, pixels + 2 * out - 1, pixels + 2 * out - 1);
    }
  }

  // Addresses at the left and, of a curve, at the top: where it enters the squares of cells there.
  function drawLabels(pen, room) {
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--faint");
    pen.font = `${LABEL - 2}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const [left, top] = gutter();
    let step = 1;
    while (step * pixels < (isCurve() ? 96 : LABEL)) step *= 2;
    const write = ([x, y], atX, atY, align) => {
      const position = layout.cellAt(x, y);
      if (position < 0) return;
      const span = spanOf(position);
      const page = Math.max(0, position - span.start) * runs.unitPages;
      pen.textAlign = align;
      const sign = span.address === null && !alone ? "+" : "";
      pen.fillText(`${sign}${hex(addressOf(about, span, page))}`, atX, atY);
    };
    const [firstX, firstY] = offset.map((each) => Math.ceil(each / pixels / step) * step);
    const last = offset.map((each, axis) =>
      Math.min(layout.size[axis], (each + room[axis]) / pixels),
    );
    for (let y = firstY; y < last[1]; y += step) {
      write(layout.entry(firstX, y, step), left - 6, top + y * pixels - offset[1], "right");
    }
    for (let x = firstX; isCurve() && x < last[0]; x += step) {
      write(layout.entry(x, firstY, step), left + x * pixels - offset[0], 2, "left");
    }
  }

  // ---- moving ----

  function inView() {
    if (cursor !== null) return cursor;
    const room = view();
    const [x, y] = offset.map((each, axis) =>
      Math.floor((each + Math.min(room[axis], layout.size[axis] * pixels) / 2) / pixels),
    );
    return Math.max(0, layout.cellAt(x, y));
  }

  const middleOf = (position) => layout.placeOf(position).map((each) => (each + 0.5) * pixels);

  // Zooms in (1) or out (-1); a position stays where it is in the view, or comes to a point of it.
  function zoom(by, position = inView(), point = null) {
    const at = point ?? middleOf(position).map((each, axis) => each - offset[axis]);
    if (by > 0) {
      if (level > 0) level -= 1;
      else pixels = Math.min(2 * pixels, CELL_MAX);
    } else if (level === 0 && pixels >= 2 * CELL && !isWhole()) pixels = Math.ceil(pixels / 2);
    else if (!isWhole()) level += 1;
    measure();
    offset = middleOf(position).map((each, axis) => each - at[axis]);
    draw();
  }

  // Shows all of the memory, in cells as large as there is room for.
  function fit() {
    [pixels, level, offset, hovered] = [CELL, 0, [0, 0], null];
    tooltip.hidden = true;
    measure();
    while (!isWhole() && layout.units < runs.end) {
      level += 1;
      measure();
    }
    while (isWhole() && pixels < CELL_MAX) {
      pixels += 1;
      measure();
    }
    if (!isWhole()) pixels -= 1;
    measure();
    draw();
  }

  // Marks the cell that begins at a position, and brings it into the view.
  function mark(position) {
    cursor = position;
    const room = view();
    layout.placeOf(position).forEach((each, axis) => {
      const low = each * pixels;
      offset[axis] = Math.max(low + pixels - room[axis], Math.min(low, offset[axis]));
    });
    where.textContent = described(position).text;
    draw();
  }

  function goTo(position) {
    const room = view();
    offset = middleOf(position).map((each, axis) => each - room[axis] / 2);
    clamp();
    mark(Math.max(0, layout.cellAt(...layout.placeOf(position))));
  }

  function moveCursor(dx, dy) {
    const [x, y] = layout.placeOf(inView());
    const there = layout.cellAt(x + dx, y + dy);
    if (cursor === null) mark(inView());
    else if (there >= 0) mark(there);
  }

  // As far as a screen up (-1) or down (1).
  function page(direction) {
    const [x, y] = layout.placeOf(inView());
    for (let by = Math.max(1, Math.floor(view()[1] / pixels) - 1); by > 0; by -= 1) {
      const there = layout.cellAt(x, y + direction * by);
      if (there < 0) continue;
      offset[1] += direction * by * pixels;
      mark(there);
      return;
    }
  }

  function goToAddress(text) {
    const found = positionAt(memory, text);
    if (typeof found === "number") goTo(found);
    else where.textContent = found;
  }

  // ---- events ----

  const KEYS = {
    ArrowLeft: () => moveCursor(-1, 0),
    ArrowRight: () => moveCursor(1, 0),
    ArrowUp: () => moveCursor(0, -1),
    ArrowDown: () => moveCursor(0, 1),
    "+": () => zoom(1),
    "=": () => zoom(1),
    "-": () => zoom(-1),
    0: fit,
    PageUp: () => page(-1),
    PageDown: () => page(1),
    Home: () => mark(0),
    End: () => mark(layout.lastCell()),
  };

  // The point of the view that an event is at.
  function pointOf(event) {
    const box = map.getBoundingClientRect();
    const [left, top] = gutter();
    return [event.clientX - box.left - left, event.clientY - box.top - top];
  }

  function positionUnder(event) {
    const point = pointOf(event);
    const room = view();
    if (point.some((each, axis) => each < 0 || each >= room[axis])) return -1;
    return layout.cellAt(...point.map((each, axis) => Math.floor((each + offset[axis]) / pixels)));
  }

  function hover(event) {
    const position = positionUnder(event);
    const found = position < 0 ? null : described(position);
    const empty = found === null || found.counts.every((count) => count === 0);
    hovered = empty ? null : position;
    tooltip.hidden = empty;
    if (!empty) {
      where.textContent = found.text;
      tooltip.textContent = found.text;
      const box = map.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      tooltip.style.left = `${Math.max(0, Math.min(x + 14, box.width - tooltip.offsetWidth))}px`;
      const below = y + 18 + tooltip.offsetHeight <= box.height;
      tooltip.style.top = `${below ? y + 18 : Math.max(0, y - tooltip.offsetHeight - 10)}px`;
    }
    draw();
  }

  function listenToPointer() {
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
      const moved = dragged && Math.hypot(dragged[0] - event.clientX, dragged[1] - event.clientY);
      dragged = null;
      if (moved !== null && moved < 4 && hovered !== null) mark(hovered);
    });
    map.addEventListener("pointercancel", () => {
      dragged = null;
    });
    map.addEventListener("pointerleave", () => {
      hovered = null;
      tooltip.hidden = true;
      draw();
    });
    const wheel = (event) => {
      event.preventDefault();
      const position = positionUnder(event);
      const by = event.deltaY < 0 ? 1 : -1;
      if (position >= 0) zoom(by, position, pointOf(event));
      else zoom(by);
      hover(event);
    };
    map.addEventListener("wheel", wheel, { passive: false });
  }

  function listen() {
    listenToPointer();
    map.addEventListener("keydown", (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    map.addEventListener("focus", () => (cursor === null ? mark(inView()) : draw()));
    map.addEventListener("blur", draw);
    element("zoom-in").addEventListener("click", () => zoom(1));
    element("zoom-out").addEventListener("click", () => zoom(-1));
    element("fit").addEventListener("click", fit);
    element("layout").addEventListener("change", (event) => {
      layout = layouts[event.target.value];
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

  function start() {
    fit();
    listen();
    themed();
  }

  function fail(error) {
    const failed = element("failed");
    failed.hidden = false;
    failed.textContent = `The map cannot be shown: ${error}. It needs a browser of 2023 or later.`;
    throw error;
  }

  // For programs that look at the page: what is shown where.
  window.pagecheckPicture = {
    ready: runs.decode().then(start, fail),
    cellAt: (clientX, clientY) => {
      const position = positionUnder({ clientX, clientY });
      return position < 0 ? null : described(position);
    },
    zoomTo: (span, pageOfSpan) => {
      [level, pixels] = [0, 16];
      measure();
      goTo(spans[span].start + Math.floor(pageOfSpan / runs.unitPages));
    },
    get level() {
      return level;
    },
  };
})();
