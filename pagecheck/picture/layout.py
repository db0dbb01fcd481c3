"""Where the cells of a picture are: along a Hilbert curve, or in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pagecheck.picture.cells import Cells
    from pagecheck.picture.memory import Span

    Places = NDArray[np.int64]

LayoutName = Literal["hilbert", "rows"]
LAYOUTS: Final = ("hilbert", "rows")


class Layout(NamedTuple):
    """Where each cell is.

    Attributes:
        name: how.
        width, height: of the picture, in cells.
        x, y: of each cell, from the top left corner on.
    """

    name: LayoutName
    width: int
    height: int
    x: Places
    y: Places


def hilbert(cells: Cells) -> Layout:
    """One cell after the other on a Hilbert curve: what is near in memory is near in the picture.

    The curve begins at the top left and goes to the right first; the least square of it that takes
    the cells is cut to those that are there.
    """
    number = len(cells.counts)
    order = 0
    while 4**order < number:
        order += 1
    x, y = hilbert_places(np.arange(number), order)
    return Layout("hilbert", int(x.max()) + 1, int(y.max()) + 1, x, y)


def hilbert_places(distance: Places, order: int) -> tuple[Places, Places]:
    """The places of points on a Hilbert curve.

    Args:
        distance: of each along the curve, from 0 on.
        order: the curve fills a square of 2 ** order places each way.

    Returns:
        (x, y) of each.

    Source: Hilbert: Ueber die stetige Abbildung einer Linie auf ein Flaechenstueck (1891).
    """
    x, y, left = np.zeros_like(distance), np.zeros_like(distance), distance.copy()
    for level in range(order):
        # Which quarter of the square of this level: first, to the right, below that, to its left.
        side = 1 << level
        quarter = left & 3
        right, below = (quarter == 1) | (quarter == 2), quarter >= 2
        # The curves of the first and the last quarter are mirrored at the two diagonals.
        first, last = quarter == 0, quarter == 3
        turned_x = np.where(first, y, np.where(last, side - 1 - y, x))
        turned_y = np.where(first, x, np.where(last, side - 1 - x, y))
        x, y = turned_x + side * right, turned_y + side * below
        left >>= 2
    return x, y


def rows(cells: Cells, columns: int | None = None) -> Layout:
    """Row after row, each span from a new row on: addresses grow to the right, and downwards.

    A span begins in the column of its address, so that the rows below begin at round ones.

    Args:
        columns: cells of a row; by default the power of two that makes it about a square.
    """
    lengths = np.diff(cells.starts)
    if columns is None:
        columns = 1
        while columns * columns < int(lengths.sum()):
            columns *= 2
        columns = min(columns, 1 << max(0, int(lengths.max()) - 1).bit_length())
    shifts = np.array([_number(cells, span) % columns for span in cells.memory.spans])
    pairs = zip(lengths, shifts, strict=True)
    within = np.concatenate([np.arange(shift, shift + length) for length, shift in pairs])
    heights = -(-(lengths + shifts) // columns)
    begins = np.cumsum([0, *heights[:-1]])
    y = np.repeat(begins, lengths) + within // columns
    return Layout("rows", columns, int(heights.sum()), within % columns, y)


def _number(cells: Cells, span: Span) -> int:
    """The number of a span's first cell, if cells were counted from address 0 on; without an
    address from the begin of the block on."""
    size = cells.memory.page_size
    page = span.first if span.address is None else span.address // size
    return page // cells.cell_pages


class Row(NamedTuple):
    """Where a row begins.

    Attributes:
        span: whose row it is.
        cell: the first that is in it.
        page: of the span, with which that begins.
        y: which row of the picture it is.
        number: which row it is, counted from address 0 on.
    """

    span: Span
    cell: int
    page: int
    y: int
    number: int


def rows_of(cells: Cells, layout: Layout) -> Iterator[Row]:
    """Every row of a layout in rows."""
    for span, begin, end in zip(cells.memory.spans, cells.starts, cells.starts[1:], strict=False):
        first = _number(cells, span)
        cell = begin
        while cell < end:
            number = (first + cell - begin) // layout.width
            page = (cell - begin) * cells.cell_pages
            yield Row(span, cell, page, int(layout.y[cell]), number)
            cell = begin + (number + 1) * layout.width - first


def laid_out(cells: Cells, name: LayoutName) -> Layout:
    """The layout of that name."""
    return hilbert(cells) if name == "hilbert" else rows(cells)
