// Where cells are, at each level of zoom: along a Hilbert curve, or in rows.
//
// Both have `size` (width and height of the picture in cells), `units` (of a cell), and
//   measure(level, width): a cell has 4 or 2 to the power of level units; the view is so many wide
//   cellAt(x, y): the position where the cell at a place begins; -1 where there is none
//   placeOf(position): the place of the cell that has it
//   cellEnd(position): the position behind the cell that begins there
//   lastCell(): the position where the last cell begins
class Curve {
  constructor(end) {
    this.end = end;
    this.fullOrder = 0;
    while (4 ** this.fullOrder < end) this.fullOrder += 1;
  }

  measure(level, _width) {
    this.units = 4 ** level;
    this.order = Math.max(0, this.fullOrder - level);
    this.size = curveSize(Math.ceil(this.end / this.units), this.order);
  }

  cellAt(x, y) {
    if (x < 0 || y < 0 || x >= this.size[0] || y >= this.size[1]) return -1;
    const position = curveDistance(x, y, this.order) * this.units;
    return position < this.end ? position : -1;
  }

  placeOf(position) {
    return curvePlace(Math.floor(position / this.units), this.order);
  }

  cellEnd(position) {
    return Math.min(position + this.units, this.end);
  }

  lastCell() {
    return Math.floor((this.end - 1) / this.units) * this.units;
  }

  // The place where the curve enters a square of cells: that of the lowest position in it.
  entry(x, y, side) {
    const distance = curveDistance(x, y, this.order);
    return curvePlace(distance - (distance % (side * side)), this.order);
  }
}

// As layout.py: the place of a point on the curve.
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

// Row after row, each span from a new row on, so that no cell has two spans. A span begins in the
// column of its address, so that the rows below begin at round ones.
class Rows {
  // Spans have `start`, their first position, `units`, and `number`: of their first unit, counted
  // from address 0 on.
  constructor(spans) {
    this.spans = spans;
    this.starts = spans.map((span) => span.start);
  }

  measure(level, width) {
    this.units = 2 ** level;
    this.columns = 16;
    while (2 * this.columns <= width) this.columns *= 2;
    this.shifts = this.spans.map((span) => Math.floor(span.number / this.units) % this.columns);
    let row = 0;
    this.rowStarts = this.spans.map((span, number) => {
      const begin = row;
      const cells = Math.ceil(span.units / this.units) + this.shifts[number];
      row += Math.ceil(cells / this.columns);
      return begin;
    });
    this.size = [this.columns, row];
  }

  cellAt(x, y) {
    if (x < 0 || y < 0 || x >= this.size[0] || y >= this.size[1]) return -1;
    const number = lastNotAbove(this.rowStarts, y, this.rowStarts.length);
    const cell = (y - this.rowStarts[number]) * this.columns + x - this.shifts[number];
    const span = this.spans[number];
    return cell >= 0 && cell * this.units < span.units ? span.start + cell * this.units : -1;
  }

  placeOf(position) {
    const number = lastNotAbove(this.starts, position, this.starts.length);
    const within = Math.floor((position - this.starts[number]) / this.units);
    const cell = within + this.shifts[number];
    return [cell % this.columns, this.rowStarts[number] + Math.floor(cell / this.columns)];
  }

  cellEnd(position) {
    const span = this.spans[lastNotAbove(this.starts, position, this.starts.length)];
    return Math.min(position + this.units, span.start + span.units);
  }

  lastCell() {
    const span = this.spans[this.spans.length - 1];
    return span.start + Math.floor((span.units - 1) / this.units) * this.units;
  }

  // The place of the first cell of a row.
  entry(_x, y, _side) {
    const number = lastNotAbove(this.rowStarts, y, this.rowStarts.length);
    return [y === this.rowStarts[number] ? this.shifts[number] : 0, y];
  }
}
