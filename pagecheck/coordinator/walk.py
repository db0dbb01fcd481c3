"""Which pages of a block have to be looked at, and which are answered by its file's holes.

The file is walked as a scan goes, always after it was asked for: a hole that is answered here
was a hole during this scan. A full snapshot is walked in C: a fragmented file has a hole for
every few pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pagecheck.coordinator.block import Block
from pagecheck.model import Kind
from pagecheck.native import _native
from pagecheck.plan import Run, page_runs
from pagecheck.shm.bitmaps import BlockBitmaps

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pagecheck.typed import NamedTuple


class Stretch(NamedTuple):
    """Consecutive pages of which those in holes are answered.

    Attributes:
        first, span: the first page, and how many there are.
        pages: those of them that have data.
    """

    first: int
    span: int
    pages: int


def stretches(block: Block, bitmaps: BlockBitmaps, kind: Kind, most: int) -> Iterator[Stretch]:
    """The pages to look at, in order; looked up as the iteration goes.

    Args:
        bitmaps: get the bits of the pages in holes: `hole` and, in a full snapshot, `zero`.
        most: pages with data in a stretch, where it has holes. One without may be longer.

    Raises:
        PartialPage: a page of a diff is part hole, part data.
        SourceError: a diff's holes cannot be looked up.
    """
    ram = block.ram
    if kind == "diff":
        from pagecheck.shm import diffs

        extents = diffs.data(block.file, ram.start, ram.start + ram.size)
        yield from _gathered(page_runs(extents, ram, kind), bitmaps, most)
    elif not block.trust_holes or block.is_dense():
        yield Stretch(0, ram.pages, ram.pages)
    else:
        walk = block.source.walk(ram, bitmaps.hole, bitmaps.zero)
        while (found := walk.next(most)) is not None:
            yield Stretch(*found)


def _gathered(runs: Iterable[Run], bitmaps: BlockBitmaps, most: int) -> Iterator[Stretch]:
    """Runs of data with the holes between them; the holes' bits are set."""
    first = end = pages = 0
    for run in runs:
        if run.hole:
            _native.bits_set(bitmaps.hole, run.first, run.pages)
            continue
        if pages and pages + run.pages > most:
            yield Stretch(first, end - first, pages)
            pages = 0
        if not pages:
            first = run.first
        end = run.first + run.pages
        pages += run.pages
    if pages:
        yield Stretch(first, end - first, pages)
