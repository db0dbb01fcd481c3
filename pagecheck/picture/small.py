"""A small picture of a memory, for a row of a table: inline SVG, or a PNG, made by hand.

The SVG has presentation attributes only, and neither a style, an id nor a script, so that it can
stand in any page whatever the page's Content-Security-Policy.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from pagecheck.picture.palette import cell_colour
from pagecheck.printable import printable

TYPE_CHECKING = False  # type checkers take it for true; a service loads this beside its requests
if TYPE_CHECKING:
    from typing import Final

    Cells = Sequence[Sequence[int]]

_EMPTY: Final = "#ffffff"
_LABEL_MAX: Final = 200


def small_svg(cells: Cells, label: str, width: int = 256, height: int = 14) -> str:
    """The cells from left to right, as an <svg> element.

    Args:
        cells: of each the pages of each state, as of `Strip.cells`.
        label: what it shows, for those who hear it, and as a tooltip; any text.
        width, height: pixels.
    """
    paths: dict[str, list[str]] = {}
    for first, count, colour in _runs(cells):
        paths.setdefault(colour, []).append(f"M{first} 0h{count}v1h-{count}z")
    text = escape(printable(label, _LABEL_MAX))
    drawn = "".join(f'<path fill="{c}" d="{"".join(places)}"/>' for c, places in paths.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text}" width="{width}" '
        f'height="{height}" viewBox="0 0 {max(1, len(cells))} 1" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges"><title>{text}</title>{drawn}</svg>'
    )


def escape(text: str) -> str:
    """A text for HTML and XML, between tags and in quoted attributes."""
    for character, entity in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#39")):
        text = text.replace(character, f"&{entity};")
    return text


def _runs(cells: Cells) -> list[tuple[int, int, str]]:
    """(first cell, count, colour) of cells of one colour; those without pages are left out."""
    found: list[tuple[int, int, str]] = []
    for number, cell in enumerate(cells):
        colour = cell_colour(cell)
        if colour is None:
            continue
        if found and found[-1][2] == colour and sum(found[-1][:2]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1, colour)
        else:
            found.append((number, 1, colour))
    return found


def small_png(cells: Cells, width: int = 256, height: int = 14, *, dark: bool = False) -> bytes:
    """The cells from left to right, as the bytes of a PNG.

    Args:
        cells: of each the pages of each state, as of `Strip.cells`.
        width, height: pixels.
        dark: in the colours for a dark ground.
    """
    colours = [cell_colour(each, dark=dark) or _EMPTY for each in _of_width(cells, width)]
    palette = sorted({_EMPTY, *colours})
    row = bytes(palette.index(colours[x * len(colours) // width]) for x in range(width))
    pixels = (b"\0" + row) * height  # each row of pixels is unfiltered
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(bytes.fromhex(each[1:]) for each in palette)),
            _chunk(b"IDAT", zlib.compress(pixels, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _of_width(cells: Cells, width: int) -> Cells:
    """As many cells as there are pixels at most: several are added up, so that none is left out."""
    if len(cells) <= width:
        return cells or [[0]]
    several = [cells[x * len(cells) // width : (x + 1) * len(cells) // width] for x in range(width)]
    return [[sum(column) for column in zip(*each, strict=True)] for each in several]


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG. Source: PNG specification, third edition, section 5.3."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
