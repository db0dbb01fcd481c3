"""A small picture of a memory, for a row of a table: a PNG, made by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from pagecheck.picture.palette import cell_colour

TYPE_CHECKING = False  # type checkers take it for true; a service loads this beside its requests
if TYPE_CHECKING:
    from typing import Final

    Cells = Sequence[Sequence[int]]

_EMPTY: Final = "#ffffff"


def small_png(cells: Cells, width: int, height: int, *, dark: bool = False) -> bytes:
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
