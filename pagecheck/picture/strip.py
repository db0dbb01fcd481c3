"""Few cells for a small picture of a memory, counted from a scan's bitmaps without numpy.

A strip can be added up from pieces of the memory that were checked apart, in other processes too.
"""

from __future__ import annotations

from pagecheck.native import _native
from pagecheck.picture.states import STATES

TYPE_CHECKING = False  # type checkers take it for true; a service loads this beside its requests
if TYPE_CHECKING:
    from pagecheck.report.report import BlockReport


def cell_pages(pages: int, most: int) -> int:
    """The least power of two so that pages fill at most so many cells."""
    each = 1
    while -(-pages // each) > most:
        each *= 2
    return each


class Strip:
    """The cells of a memory, from its first page to its last.

    Attributes:
        pages: of the memory.
        cell_pages: of each cell; the last one has fewer where they do not divide the memory.
        cells: of each cell the pages of each state, in the order of `STATES`.
    """

    def __init__(self, pages: int, most: int = 128) -> None:
        """Nothing is counted yet: every cell is empty.

        Args:
            pages: of the memory.
            most: cells at most.
        """
        self.pages = pages
        self.cell_pages = cell_pages(pages, most)
        self.cells = [[0] * len(STATES) for _ in range(-(-pages // self.cell_pages))]

    def add(self, block: BlockReport, first: int = 0) -> None:
        """Counts the pages of a block.

        Args:
            first: number of its first page in the memory.
        """
        pages = block.block.pages
        at = 0
        while at < pages:
            cell, within = divmod(first + at, self.cell_pages)
            end = min(pages, at + self.cell_pages - within)
            self._add_to(self.cells[cell], block, at, end)
            at = end

    def _add_to(self, cell: list[int], block: BlockReport, at: int, end: int) -> None:
        hole = ones(block.hole, at, end)
        zero = ones(block.zero, at, end) - hole
        normal = ones(block.normal, at, end)
        unchanged = ones(block.unchanged, at, end)
        undecided = end - at - hole - zero - normal - unchanged
        for state, count in enumerate((zero, hole, normal, undecided, unchanged)):
            cell[state] += count

    def join(self, other: Strip) -> None:
        """Adds what another strip of the same memory has counted.

        Args:
            other: of as many pages and cells.
        """
        for cell, theirs in zip(self.cells, other.cells, strict=True):
            for state, count in enumerate(theirs):
                cell[state] += count


def ones(words: memoryview | None, first: int, end: int) -> int:
    """Bits that are set among those from `first` to `end`; 0 without a bitmap."""
    if words is None:
        return 0
    if first % 64 == 0:
        return _native.bits_count(words.cast("B")[first // 8 :], end - first)
    part = words.cast("B")[first // 8 : -(-end // 8)]
    mask = (1 << (end - first)) - 1
    return (int.from_bytes(part, "little") >> (first % 8) & mask).bit_count()
