"""The small picture in a row: counted piece by piece, joined exactly, kept as one short text.

A row's picture is a text of letters, one for each cell: of `LOOKS` that which stands for the state
and the shade that `picture/palette.py` chooses, or a blank for a cell without pages. So it can
stand in a journal, and a page can colour it for a light ground or a dark one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pagecheck.model import Counts, RamBlock
from pagecheck.picture.palette import STEPS, look
from pagecheck.picture.strip import Strip
from pagecheck.report.report import BlockReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.snapshot.values import Snapshot

LOOKS: Final = "abcdefghijklmno"  # the state's number times STEPS, plus the step


def strip_of(report: BlockReport, size: int, start: int) -> Strip:
    """What a piece adds to the picture of its target.

    Args:
        report: of a block that is the piece.
        size: of the target, in bytes.
        start: of the piece in the target, in bytes.
    """
    page_size = report.block.page_size
    strip = Strip(size // page_size)
    strip.add(report, start // page_size)
    return strip


def strip_of_saved(snapshot: Snapshot, zero: Sequence[bytes]) -> Strip:
    """The picture of a snapshot, its blocks one after the other; its zero pages are holes.

    Args:
        zero: the bitmap of each block.
    """
    blocks = [RamBlock(b.name, b.size, snapshot.page_bytes) for b in snapshot.blocks]
    strip = Strip(sum(block.pages for block in blocks))
    first = 0
    for block, words in zip(blocks, zero, strict=True):
        others = int.from_bytes(words, "little") ^ ((1 << block.pages) - 1)
        normal = memoryview(others.to_bytes(len(words), "little"))
        holes = memoryview(words)
        strip.add(BlockReport(block, Counts(), holes, normal, hole=holes), first)
        first += block.pages
    return strip


def picture_of(strips: Sequence[Strip | None]) -> str | None:
    """The picture of a target, from the strips of all of its pieces; None where one is missing."""
    if not strips or strips[0] is None:
        return None
    joined = Strip(strips[0].pages)
    for each in strips:
        if each is None:
            return None
        joined.join(each)
    looks = map(look, joined.cells)
    return "".join(" " if each is None else LOOKS[each[0] * STEPS + each[1]] for each in looks)
