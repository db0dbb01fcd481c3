"""The states of a memory's pages as few bytes, for a page that shows them: runs, deflated.

The unit of a run is one page where a million runs are enough; else the least power of two of pages
whose runs are no more than half a million. So a file has a few MiB at most, however large the
memory is, and says what its unit is. Each span begins at a position that is a multiple of
`Packed.align`, so that the cells of an overview have pages of one span; what is between has no
pages.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pagecheck.picture.cells import aligned, count
from pagecheck.picture.memory import undecided_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pagecheck.picture.memory import Block, Memory, Span

    Numbers = NDArray[np.int64]

RUNS_MAX: Final = 1 << 20  # of single pages
MIXED_RUNS_MAX: Final = 1 << 19  # of units of several pages, which take more bytes
UNITS_AT_ONCE: Final = 1 << 22
UNITS_MAX: Final = 1 << 28  # a position is an integer of 31 bits for the script that reads it
CELLS: Final = 1 << 14  # of the overview that no cell of which has two spans
NO_PAGES: Final = 255


class Packed(NamedTuple):
    """The runs.

    Attributes:
        unit_pages: pages of a unit.
        starts: position of each span's first unit.
        end: position behind the last span's last unit.
        lengths: of each run in units, those between two spans among them.
        states: of single pages, the state of each run, `NO_PAGES` between spans; None for others.
        counts: of larger units the pages of each state in each unit of each run; None for single
            pages.
    """

    unit_pages: int
    starts: tuple[int, ...]
    end: int
    lengths: Numbers
    states: Numbers | None
    counts: Numbers | None

    def to_json(self) -> dict[str, Any]:
        """Its members, the runs as base64 of a raw deflate stream: little-endian columns, of each
        the lowest bytes first, then the next ones."""
        columns = [self.lengths, *([self.states] if self.states is not None else [])]
        columns += list(self.counts.T) if self.counts is not None else []
        widths = [max(1, -(-int(each.max(initial=0)).bit_length() // 8)) for each in columns]
        raw = b"".join(_planes(each, width) for each, width in zip(columns, widths, strict=True))
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = deflate.compress(raw) + deflate.flush()
        return {
            "unit_pages": self.unit_pages,
            "starts": self.starts,
            "end": self.end,
            "runs": len(self.lengths),
            "single": self.states is not None,
            "widths": widths,
            "data": base64.b64encode(packed).decode("ascii"),
        }


def _planes(column: Numbers, width: int) -> bytes:
    every = np.ascontiguousarray(column, "<u8").view(np.uint8).reshape(-1, 8)
    return every[:, :width].T.tobytes()


def packed(memory: Memory) -> Packed:
    """The runs of a memory."""
    pages = sum(each.pages for each in memory.spans)
    if pages <= UNITS_MAX:
        runs = _single_pages(memory)
        if runs is not None:
            lengths, states = zip(*runs, strict=True)
            return _joined(memory, 1, lengths, states)
    each = 2
    while each * UNITS_AT_ONCE < pages:
        each *= 2
    while True:
        counts = [count(memory, span, each).astype(np.int64) for span in memory.spans]
        merged = [_merged(units) for units in counts]
        number = sum(len(lengths) for lengths, _ in merged)
        if number <= max(MIXED_RUNS_MAX, 2 * len(memory.spans)):
            return _joined(memory, each, *zip(*merged, strict=True))
        each *= 2


def _single_pages(memory: Memory) -> list[tuple[Numbers, Numbers]] | None:
    """Of each span the lengths and the states of its runs; None where there are too many."""
    found = []
    left = RUNS_MAX
    for span in memory.spans:
        ends = _ends(memory.blocks[span.block], span, left)
        if ends is None:
            return None
        left -= len(ends)
        firsts = np.concatenate([[0], ends[:-1]])
        states = _states_at(memory, span, firsts)
        found.append((ends - firsts, states))
    return found


def _ends(block: Block, span: Span, most: int) -> Numbers | None:
    """Where the runs of a span end; None where there are more than `most`."""
    size = -(-span.pages // 8)
    differs = np.zeros(size, np.uint8)  # bit i: page i is of another state than page i - 1
    for bits in block.bits:
        if bits is not None:
            these = aligned(bits, span.first, span.pages)
            before = these << 1
            before[1:] |= these[:-1] >> 7
            differs |= these ^ before
    differs[0] &= 254
    if span.pages % 8:
        differs[-1] &= (1 << span.pages % 8) - 1
    places = np.flatnonzero(differs)
    if len(places) > most:
        return None
    ones = np.unpackbits(differs[places], bitorder="little").reshape(-1, 8)
    byte, bit = np.nonzero(ones)
    if len(byte) + 1 > most:
        return None
    return np.concatenate([places[byte] * 8 + bit, [span.pages]]).astype(np.int64)


def _states_at(memory: Memory, span: Span, pages: Numbers) -> Numbers:
    """The states of some pages of a span."""
    at = pages + span.first
    found = np.full(len(pages), undecided_of(memory.states), np.int64)
    for state, bits in enumerate(memory.blocks[span.block].bits):
        if bits is not None:
            found[(bits[at // 8] >> (at % 8).astype(np.uint8)) & 1 == 1] = state
    return found


def _merged(units: Numbers) -> tuple[Numbers, Numbers]:
    """Runs of units with the same counts: their lengths, and the counts."""
    differs = (units[1:] != units[:-1]).any(axis=1)
    firsts = np.concatenate([[0], np.flatnonzero(differs) + 1])
    return np.diff(np.concatenate([firsts, [len(units)]])), units[firsts]


def _joined(
    memory: Memory, each: int, lengths: Sequence[Numbers], values: Sequence[Numbers]
) -> Packed:
    """The runs of all spans, with those between them.

    Args:
        each: pages of a unit.
        values: the states of the runs, or the counts of their units.
    """
    units = [-(-span.pages // each) for span in memory.spans]
    align = 1
    while align * CELLS < sum(units):
        align *= 4
    starts, at = [], 0
    all_lengths: list[Numbers] = []
    all_values: list[Numbers] = []
    nothing = np.full((1, *values[0].shape[1:]), NO_PAGES if values[0].ndim == 1 else 0)
    for span_units, span_lengths, span_values in zip(units, lengths, values, strict=True):
        if gap := -at % align:
            all_lengths.append(np.array([gap]))
            all_values.append(nothing)
        at += gap
        starts.append(at)
        all_lengths.append(span_lengths)
        all_values.append(span_values)
        at += span_units
    found = np.concatenate(all_values)
    single = found.ndim == 1
    return Packed(
        each,
        tuple(starts),
        at,
        np.concatenate(all_lengths),
        found if single else None,
        None if single else found,
    )
