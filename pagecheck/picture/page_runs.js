// The pages of the memory: runs of units of one state, or of the same counts. Positions are units
// (one page, or several) in the order of the picture; between two spans there are positions
// without pages. The counts of a cell are the difference of two sums over the runs before it.
class Runs {
  constructor(about) {
    this.about = about;
    this.states = about.states.length;
    this.number = about.runs.runs;
    this.end = about.runs.end;
    this.unitPages = about.runs.unit_pages;
  }

  // Reads the runs: columns of numbers, of each the lowest bytes first, then the next ones.
  async decode() {
    const given = this.about.runs;
    const packed = Uint8Array.from(atob(given.data), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    let at = 0;
    const [lengths, ...values] = given.widths.map((width) => {
      const column = new Uint32Array(this.number);
      for (let plane = 0; plane < width; plane += 1) {
        const factor = 2 ** (8 * plane);
        for (let run = 0; run < this.number; run += 1) column[run] += bytes[at + run] * factor;
        at += this.number;
      }
      return column;
    });
    const [single] = values;
    // The pages of a state in a unit of a run.
    this.perUnit = given.single
      ? (run, state) => (single[run] === state ? 1 : 0)
      : (run, state) => values[state][run];
    this.sum(lengths);
  }

  sum(lengths) {
    this.starts = new Float64Array(this.number + 1);
    this.sums = Array.from({ length: this.states }, () => new Float64Array(this.number + 1));
    for (let run = 0; run < this.number; run += 1) {
      this.starts[run + 1] = this.starts[run] + lengths[run];
      for (let state = 0; state < this.states; state += 1) {
        const pages = lengths[run] * this.perUnit(run, state);
        this.sums[state][run + 1] = this.sums[state][run] + pages;
      }
    }
  }

  // The pages of each state from one position to another.
  countsOf(begin, end) {
    const found = new Array(this.states).fill(0);
    const stop = Math.min(end, this.end);
    if (begin >= stop) return found;
    const first = lastNotAbove(this.starts, begin, this.number);
    const last = lastNotAbove(this.starts, stop - 1, this.number);
    for (let state = 0; state < this.states; state += 1) {
      found[state] = this.before(state, last, stop) - this.before(state, first, begin);
    }
    return found;
  }

  before(state, run, position) {
    return this.sums[state][run] + (position - this.starts[run]) * this.perUnit(run, state);
  }

  // As palette.py: the state that is seen, and its shade; null without pages.
  look(counts) {
    let tier = -1;
    let pages = 0;
    for (let state = 0; state < this.states; state += 1) {
      if (counts[state] > 0) tier = Math.max(tier, this.about.states[state].tier);
      pages += counts[state];
    }
    if (tier < 0) return null;
    let most = -1;
    let loud = 0;
    for (let state = 0; state < this.states; state += 1) {
      if (this.about.states[state].tier !== tier) continue;
      loud += counts[state];
      if (most < 0 || counts[state] > counts[most]) most = state;
    }
    const { few, some } = this.about;
    return [most, (loud * few > pages ? 1 : 0) + (loud * some > pages ? 1 : 0)];
  }
}

// The index of the last of so many ascending values that is not above what is looked for.
function lastNotAbove(values, wanted, count) {
  let low = 0;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= wanted) low = middle;
    else high = middle - 1;
  }
  return low;
}
