"""A picture as a PNG: the map with addresses at its edges, a legend and the counts.

Pillow sets the text and writes the file; docs/decisions/0020-pictures.md says why not matplotlib.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pagecheck.errors import UsageError
from pagecheck.picture import words
from pagecheck.picture.layout import rows_of
from pagecheck.picture.palette import STEPS
from pagecheck.picture.raster import TILE, coloured, printed, tile
from pagecheck.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.picture.cells import Cells
    from pagecheck.picture.layout import Layout
    from pagecheck.picture.states import State

GENERATOR: Final = "pagecheck picture"  # a PNG's text "Software"
MAP_PIXELS: Final = 1024
_GAP: Final = 12
_LINE: Final = 18
_FONT_PIXELS: Final = 13
_SPANS_MAX: Final = 12
_SQUARES: Final = 8  # of a Hilbert curve each way, whose addresses are at the edges


class Ink(NamedTuple):
    """The colours around the map."""

    ground: str
    text: str
    faint: str


LIGHT: Final = Ink("#ffffff", "#1b1b1b", "#6b6b6b")
DARK: Final = Ink("#14181c", "#e8e8e8", "#9aa0a6")


class Label(NamedTuple):
    """A text at an edge of the map.

    Attributes:
        edge: "left", "right", "top" or "bottom".
        at: cells from the top or the left.
    """

    edge: str
    at: int
    text: str


def require_pillow() -> None:
    """Raises UsageError where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "a PNG needs Pillow: pip install 'pagecheck[picture]'; HTML and the terminal do not"
        ) from error


def png(cells: Cells, layout: Layout, *, dark: bool = False, in_print: bool = False) -> bytes:
    """The picture as the bytes of a PNG.

    Args:
        dark: on a dark ground.
        in_print: patterns in black, grey and white, on white.

    Raises:
        UsageError: Pillow is not installed.
    """
    require_pillow()
    from PIL import PngImagePlugin

    page = _Page(cells, layout, dark=dark, in_print=in_print)
    page.draw()
    image = page.image.convert("L") if in_print else page.image
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", GENERATOR)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=about)
    return out.getvalue()


class _Page:
    """A picture that is being drawn."""

    def __init__(self, cells: Cells, layout: Layout, *, dark: bool, in_print: bool) -> None:
        from PIL import ImageFont

        self._cells = cells
        self._layout = layout
        self._in_print = in_print
        self._dark = dark and not in_print
        self._ink = DARK if self._dark else LIGHT
        self._font = ImageFont.load_default(_FONT_PIXELS)
        widest = max(layout.width, layout.height)
        self._scale = TILE if in_print else max(1, MAP_PIXELS // widest)
        self.image: Any = None

    def _width(self, text: str) -> int:
        return int(self._font.getlength(text)) + 1

    def draw(self) -> None:
        """Draws everything on a new image."""
        from PIL import Image, ImageDraw

        memory = self._cells.memory
        labels = list(labels_of(self._cells, self._layout, self._scale))
        texts: dict[str, list[str]] = {}
        for each in labels:
            texts.setdefault(each.edge, []).append(each.text)
        left, right = (
            max(map(self._width, texts.get(edge, [""]))) + _GAP for edge in ("left", "right")
        )
        head = [words.title(memory), words.scale(self._cells, self._layout)]
        head.append(f"At the edges: {words.axis(memory)}.")
        foot = list(self._foot())
        map_width, map_height = (
            self._scale * each for each in (self._layout.width, self._layout.height)
        )
        top = _GAP + _LINE * (len(head) + ("top" in texts)) + 4
        below = top + map_height + _GAP + _LINE * ("bottom" in texts)
        legend = words.counts(memory)
        height = below + _LINE * (len(legend) + len(foot)) + 2 * _GAP
        widest = max(map(self._width, (*head, *foot, *legend.values())))
        width = max(left + map_width + right, widest + 4 * TILE * STEPS) + 2 * _GAP
        self.image = Image.new("RGB", (width, height), self._ink.ground)
        self._pen = ImageDraw.Draw(self.image)
        for number, text in enumerate(head):
            self._write(_GAP, _GAP + number * _LINE, text, faint=number > 0)
        corner = (_GAP + left, top)
        self.image.paste(Image.fromarray(self._map()), corner)
        (x, y), end = corner, (corner[0] + map_width, corner[1] + map_height)
        self._pen.rectangle((x - 1, y - 1, *end), outline=self._ink.faint)
        for label in labels:
            self._label(label, corner, map_width, map_height)
        for number, (state, text) in enumerate(legend.items()):
            self._entry(memory.states[state], text, _GAP + left, below + number * _LINE)
        for number, text in enumerate(foot):
            at = below + (number + len(legend)) * _LINE + _GAP // 2
            self._write(_GAP + left, at, text, faint=True)

    def _map(self) -> Any:
        if self._in_print:
            return printed(self._cells, self._layout)
        ground = self._ink.ground
        return coloured(self._cells, self._layout, self._scale, ground, dark=self._dark)

    def _write(self, x: int, y: int, text: str, *, faint: bool = False) -> None:
        colour = self._ink.faint if faint else self._ink.text
        self._pen.text((x, y), text, fill=colour, font=self._font)

    def _label(self, label: Label, corner: tuple[int, int], width: int, height: int) -> None:
        x, y = corner
        at = label.at * self._scale
        mark = 4
        places = {
            "left": (x - self._width(label.text) - mark - 2, y + at - 2, x - mark - 1, y + at),
            "right": (x + width + mark + 2, y + at - 2, x + width, y + at),
            "top": (x + at + 3, y - _LINE - 1, x + at, y - mark - 1),
            "bottom": (x + at + 3, y + height + 2, x + at, y + height),
        }
        text_x, text_y, mark_x, mark_y = places[label.edge]
        self._write(text_x, text_y, label.text, faint=True)
        across = label.edge in ("left", "right")
        end = (mark_x + mark, mark_y) if across else (mark_x, mark_y + mark)
        self._pen.line(((mark_x, mark_y), end), fill=self._ink.faint)

    def _entry(self, state: State, text: str, x: int, y: int) -> None:
        """A line of the legend: the shades or the pattern, the words, the count."""
        from PIL import Image

        size = 2 * TILE
        if self._in_print:
            sample = np.tile(tile(state.pattern, TILE // 2), (2, 4))
            self.image.paste(Image.fromarray(sample), (x, y))
        else:
            shades = state.dark if self._dark else state.light
            for number, shade in enumerate(shades):
                begin = x + number * size
                self._pen.rectangle((begin, y, begin + size - 1, y + size - 1), fill=shade)
        self._pen.rectangle((x, y, x + size * STEPS, y + size), outline=self._ink.faint)
        self._write(x + size * STEPS + TILE, y, text)

    def _foot(self) -> Iterator[str]:
        memory = self._cells.memory
        yield words.rule(memory, in_print=self._in_print)
        for span in memory.spans[:_SPANS_MAX]:
            yield words.span_text(memory, span)
        if (more := len(memory.spans) - _SPANS_MAX) > 0:
            yield f"and {more:,} more parts"
        for note in memory.notes[:_SPANS_MAX]:
            yield f"note: {printable(note, 120)}"


def labels_of(cells: Cells, layout: Layout, scale: int) -> Iterator[Label]:
    """The addresses at the edges of a map.

    Args:
        scale: pixels of a cell, each way.
    """
    labels = _of_rows(cells, layout, scale) if layout.name == "rows" else _of_squares(cells, layout)
    last: dict[str, int] = {}
    for each in labels:
        apart = _LINE if each.edge in ("left", "right") else MAP_PIXELS // _SQUARES
        at = each.at * scale
        if each.edge not in last or at - last[each.edge] >= apart:
            last[each.edge] = at
            yield each


def _of_rows(cells: Cells, layout: Layout, scale: int) -> Iterator[Label]:
    """The address of each row at a multiple of a power of two of rows that has room; where a span
    begins its address, and the block at the right."""
    memory = cells.memory
    step = 1
    while step * scale < _LINE:
        step *= 2
    for row in rows_of(cells, layout):
        if row.page == 0 or row.number % step == 0:
            yield Label("left", row.y, words.address(memory, row.span, row.page))
        if row.page == 0 and len(memory.blocks) > 1:
            yield Label("right", row.y, printable(memory.blocks[row.span.block].name, 24))


def _of_squares(cells: Cells, layout: Layout) -> Iterator[Label]:
    """The address where the curve enters each square at the edges."""
    side = 1
    while side * _SQUARES < max(layout.width, layout.height):
        side *= 2
    found = []
    for cell in range(0, len(cells.counts), side * side):
        column, row = int(layout.x[cell]) // side, int(layout.y[cell]) // side
        text = _address_of(cells, cell)
        columns, rows = -(-layout.width // side), -(-layout.height // side)
        if column == 0:
            found.append(Label("left", row * side, text))
        elif column == columns - 1:
            found.append(Label("right", row * side, text))
        elif row == 0:
            found.append(Label("top", column * side, text))
        elif row == rows - 1:
            found.append(Label("bottom", column * side, text))
    yield from sorted(found, key=lambda each: each.at)


def _address_of(cells: Cells, cell: int) -> str:
    number = int(np.searchsorted(cells.starts, cell, side="right")) - 1
    page = (cell - cells.starts[number]) * cells.cell_pages
    return words.address(cells.memory, cells.memory.spans[number], page)
