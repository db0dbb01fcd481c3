"""A picture in a terminal: two cells in each character, one above the other, or letters.

Facts: U+2580 UPPER HALF BLOCK has a colour of its own and one below it. A terminal of 16 colours
has no shades, and whether it shows any colour, the user says by NO_COLOR, TERM and COLORTERM, which
rich reads. Decision: half blocks with 24-bit or 256 colours; named colours with 16; letters where
there is no terminal or no colour, or its encoding lacks the block.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

import numpy as np

from pagecheck.picture import words
from pagecheck.picture.cells import cells_of
from pagecheck.picture.layout import LayoutName, hilbert, rows, rows_of
from pagecheck.picture.palette import STEPS
from pagecheck.picture.raster import looks
from pagecheck.printable import printable

if TYPE_CHECKING:
    from pagecheck.picture.cells import Cells
    from pagecheck.picture.layout import Layout
    from pagecheck.picture.memory import Memory
    from pagecheck.picture.raster import Pixels
    from pagecheck.picture.states import State

HALF: Final = "\u2580"
LOWER_HALF: Final = "\u2584"
NOTHING: Final = 255  # the look of a place without a cell
COLUMNS_MIN: Final = 16
LINES_MAX: Final = 40  # of the map; a picture that scrolls away is not seen at once
AROUND: Final = 12  # lines of the head, the legend and the prompt
# What 16 colours have for each state; shades are not told apart.
NAMED: Final = {
    "zero": "blue",
    "hole": "black",
    "normal": "yellow",
    "undecided": "magenta",
    "unchanged": "white",
    "zero_in_both": "black",
    "normal_in_both": "white",
    "same": "white",
    "changed": "red",
    "became_normal": "yellow",
    "became_zero": "blue",
    "in_one_only": "green",
}


class Screen(NamedTuple):
    """What a picture is printed on.

    Attributes:
        columns, lines: of characters.
        colours: "truecolor", "256", "standard" (16), or None: letters.
        dark: whether its ground is.
    """

    columns: int
    lines: int
    colours: str | None
    dark: bool


def screen_of(stream: TextIO, *, dark: bool | None = None) -> Screen:
    """What a stream writes to.

    Args:
        dark: whether its ground is; None: as COLORFGBG says, or dark.
    """
    from rich.console import Console

    console = Console(file=stream)
    colours = None if console.no_color else console.color_system
    if not _has_half(stream):
        colours = None
    if dark is None:
        dark = os.environ.get("COLORFGBG", "").rpartition(";")[2] not in ("7", "15")
    # What is not a terminal has no height: as much as fits on one that is high enough.
    lines = console.height if console.is_terminal else LINES_MAX + AROUND
    return Screen(console.width, lines, colours, dark)


def _has_half(stream: TextIO) -> bool:
    try:
        HALF.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def show(
    memory: Memory, screen: Screen, layout: LayoutName, most: int | None = None
) -> Iterator[str]:
    """The lines of a picture, with what colours them.

    Args:
        most: cells at most; by default as many as the screen has room for.
    """
    per_line = 1 if screen.colours is None else 2
    cells, made, labels = _fitted(memory, screen, layout, most, per_line)
    yield words.title(memory)
    yield words.scale(cells, made)
    if layout == "rows":
        yield f"At the left: {words.axis(memory)}."
    grid = np.full((made.height + made.height % per_line, made.width), NOTHING, np.uint8)
    grid[made.y, made.x] = looks(cells.counts, memory.states)
    width = max(map(len, labels), default=0)
    for number, at in enumerate(range(0, made.height, per_line)):
        label = labels[number].rjust(width) + " " if labels else ""
        yield label + _line(grid[at : at + per_line], memory.states, screen)
    yield from _legend(memory, screen)


def _fitted(
    memory: Memory, screen: Screen, layout: LayoutName, most: int | None, per_line: int
) -> tuple[Cells, Layout, list[str]]:
    """As many cells as fit, their places, and the label of each line."""
    lines = min(max(screen.lines - AROUND, 4), LINES_MAX) * per_line
    if layout == "hilbert":
        side = 1
        while 2 * side <= screen.columns and 2 * side <= lines:
            side *= 2
        cells = cells_of(memory, min(most or side * side, side * side))
        return cells, hilbert(cells), []
    # Labels take room, and which labels there are depends on how much room there is.
    room = screen.columns
    while True:
        columns = COLUMNS_MIN
        while 2 * columns <= room:
            columns *= 2
        cells = cells_of(memory, most or columns * lines)
        made = rows(cells, columns)
        labels = _labels(cells, made, per_line)
        room = min(room, screen.columns - 1 - max(map(len, labels)))
        if columns <= max(room, COLUMNS_MIN):
            return cells, made, labels


def _labels(cells: Cells, layout: Layout, per_line: int) -> list[str]:
    """The address of the first cell of each line of text."""
    found = [""] * -(-layout.height // per_line)
    for row in rows_of(cells, layout):
        line = row.y // per_line
        found[line] = found[line] or words.address(cells.memory, row.span, row.page)
    return found


def _line(grid: Pixels, states: tuple[State, ...], screen: Screen) -> str:
    """A line of characters for one row of cells, or two."""
    if screen.colours is None:
        return "".join(letter(int(look), states) for look in grid[0]).rstrip()
    pairs = zip(grid[0].tolist(), grid[1].tolist(), strict=True)
    drawn = (
        _drawn(one, other, len(list(group)), states, screen)
        for (one, other), group in itertools.groupby(pairs)
    )
    return "".join(drawn)


def _drawn(one: int, other: int, count: int, states: tuple[State, ...], screen: Screen) -> str:
    """The same two cells so many times."""
    from rich.color import ColorSystem
    from rich.style import Style

    if one == other == NOTHING:
        return " " * count
    # Where there is nothing above or below, the terminal's own ground is seen.
    character = HALF if one != NOTHING else LOWER_HALF
    ink, ground = (one, other) if one != NOTHING else (other, one)
    style = Style(color=_colour(ink, states, screen), bgcolor=_colour(ground, states, screen))
    system = {"256": ColorSystem.EIGHT_BIT, "standard": ColorSystem.STANDARD}.get(
        screen.colours or "", ColorSystem.TRUECOLOR
    )
    return style.render(character * count, color_system=system)


def _colour(look: int, states: tuple[State, ...], screen: Screen) -> str | None:
    if look == NOTHING:
        return None
    state, step = states[look // STEPS], look % STEPS
    if screen.colours == "standard":
        return NAMED[state.name]
    return (state.dark if screen.dark else state.light)[step]


def letter(look: int, states: tuple[State, ...]) -> str:
    """A cell without colours: small where few or some of its pages are of the state.

    Args:
        look: as of `raster.looks`, or `NOTHING`.
    """
    if look == NOTHING:
        return " "
    found = states[look // STEPS].letter
    return found if look % STEPS == STEPS - 1 else found.lower()


def _legend(memory: Memory, screen: Screen) -> Iterator[str]:
    for number, text in words.counts(memory).items():
        looked = [STEPS * number + step for step in range(STEPS)]
        if screen.colours is None:
            sample = "".join(dict.fromkeys(letter(each, memory.states) for each in looked)).ljust(2)
        else:
            sample = _line(np.array([looked, looked], np.uint8), memory.states, screen)
        yield f"{sample} {text}"
    for note in memory.notes:
        yield f"note: {printable(note)}"
