"""Cells as pixels: colours for a screen, patterns for a printer.

In print a mixed cell has a bar as high as the share of its pages, at least one pixel; so one normal
page in a cell of millions is seen there, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pagecheck.picture.palette import FEW, SOME, STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pagecheck.picture.cells import Cells, Counts
    from pagecheck.picture.layout import Layout
    from pagecheck.picture.states import State

    Pixels = NDArray[np.uint8]

TILE: Final = 8  # pixels of a cell in print, each way
TINT: Final = 208
_PAPER, _INK = 255, 0


def looks(counts: Counts, states: Sequence[State]) -> Pixels:
    """How each cell looks: `palette.look` for all of them.

    Returns:
        uint8[cells]: STEPS * state + step.
    """
    tiers = np.array([each.tier for each in states])
    tier = np.where(counts > 0, tiers, -1).max(axis=1)
    of_it = np.where(tiers == tier[:, None], counts.astype(np.int64), -1)
    loud, pages = np.maximum(of_it, 0).sum(axis=1), counts.sum(axis=1, dtype=np.int64)
    step = (loud * FEW > pages).astype(np.uint8) + (loud * SOME > pages)
    found: Pixels = (of_it.argmax(axis=1) * STEPS + step).astype(np.uint8)
    return found


def coloured(cells: Cells, layout: Layout, scale: int, ground: str, *, dark: bool) -> Pixels:
    """The cells in colour, uint8[height, width, 3].

    Args:
        scale: pixels of a cell, each way.
        ground: the colour where there is no cell.
    """
    states = cells.memory.states
    shades = [shade for each in states for shade in (each.dark if dark else each.light)]
    palette = np.array([list(bytes.fromhex(each[1:])) for each in (*shades, ground)], np.uint8)
    grid = np.full((layout.height, layout.width), len(shades), np.uint8)
    grid[layout.y, layout.x] = looks(cells.counts, states)
    found: Pixels = palette[grid.repeat(scale, axis=0).repeat(scale, axis=1)]
    return found


def printed(cells: Cells, layout: Layout) -> Pixels:
    """The cells as patterns in grey, uint8[height, width]; TILE pixels a cell, each way."""
    states = cells.memory.states
    seen = looks(cells.counts, states) // STEPS
    heights = bar_heights(cells.counts, states, seen)
    tiles = np.stack([tile(s.pattern, h) for s in states for h in range(TILE + 1)])
    blank = np.full((1, TILE, TILE), _PAPER, np.uint8)
    grid = np.full((layout.height, layout.width), len(tiles), np.int64)
    grid[layout.y, layout.x] = seen.astype(np.int64) * (TILE + 1) + heights
    pixels = np.concatenate([tiles, blank])[grid]
    found: Pixels = pixels.transpose(0, 2, 1, 3).reshape(layout.height * TILE, -1)
    return found


def bar_heights(counts: Counts, states: Sequence[State], seen: Pixels) -> NDArray[np.int64]:
    """How high the bar of each cell is, 1 to TILE: the share of the pages of the seen state's tier.

    Args:
        seen: the state that is seen of each cell.
    """
    tiers = np.array([each.tier for each in states])
    of_it = np.where(tiers == tiers[seen][:, None], counts, 0).sum(axis=1, dtype=np.int64)
    pages = counts.sum(axis=1, dtype=np.int64)
    found: NDArray[np.int64] = np.clip(of_it * TILE // np.maximum(pages, 1), 1, TILE)
    return found


def tile(pattern: str, height: int = TILE) -> Pixels:
    """A cell in print.

    Args:
        pattern: its name in `PATTERNS`.
        height: of a bar, in pixels.
    """
    made = np.full((TILE, TILE), _PAPER, np.uint8)
    if pattern == "bar":
        made[:] = TINT
    PATTERNS[pattern](made, height)
    return made


def _tint(made: Pixels, _height: int) -> None:
    made[:] = TINT


def _bar(made: Pixels, height: int) -> None:
    made[TILE - height :] = _INK


def _lines(made: Pixels, _height: int) -> None:
    made[1::4] = _INK


def _columns(made: Pixels, _height: int) -> None:
    made[:, 1::4] = _INK


def _hatch(made: Pixels, _height: int) -> None:
    y, x = np.indices(made.shape)
    made[(x + y) % 4 == 0] = _INK


def _box(made: Pixels, _height: int) -> None:
    made[1:-1, 1:-1] = _INK
    made[2:-2, 2:-2] = _PAPER


PATTERNS: Final = {
    "blank": lambda _made, _height: None,
    "tint": _tint,
    "bar": _bar,
    "lines": _lines,
    "columns": _columns,
    "hatch": _hatch,
    "box": _box,
}
