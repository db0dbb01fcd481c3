"""Where the cells of a picture are: along a Hilbert curve, or in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pagecheck.picture.cells import Cells

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

    Args:
        columns: cells of a row; by default the power of two that makes it about a square.
    """
    lengths = np.diff(cells.starts)
    if columns is None:
        columns = 1
        while columns * columns < int(lengths.sum()):
            columns *= 2
        columns = min(columns, 1 << max(0, int(lengths.max()) - 1).bit_length())
    within = np.concatenate([np.arange(length) for length in lengths])
    heights = -(-lengths // columns)
    begins = np.cumsum([0, *heights[:-1]])
    y = np.repeat(begins, lengths) + within // columns
    return Layout("rows", columns, int(heights.sum()), within % columns, y)


def laid_out(cells: Cells, name: LayoutName) -> Layout:
    """The layout of that name."""
    return hilbert(cells) if name == "hilbert" else rows(cells)
