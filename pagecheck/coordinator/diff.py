"""What a scan of a diff snapshot does more than one of a full snapshot; loaded for it alone."""

from __future__ import annotations

from pagecheck.coordinator.block import Block
from pagecheck.errors import SourceError
from pagecheck.native import _native
from pagecheck.plan import PartialPage, common_page_size, page_runs
from pagecheck.shm import diffs
from pagecheck.shm.bitmaps import BlockBitmaps


def partial_page(block: Block, error: PartialPage) -> SourceError:
    """The error of a page that is part hole, part data, with the page size that would do."""
    source, ram = block.source, block.ram
    fits = common_page_size(diffs.data(block.file, ram.start, ram.start + ram.size), ram)
    way_out = f"use --page-size {fits}" if fits >= 4096 else "no page size fits this file"
    if fits < 4096 and diffs.is_inline(block.file):
        way_out = "the file system keeps the file's first bytes inline, in its inode"
    return SourceError(
        f"{source.text}: a page of {ram.page_size} bytes is part hole, part data at offset "
        f"{error.offset:#x}, so it is neither changed nor unchanged; {way_out}"
    )


def forget_uncertain(block: Block, bitmaps: BlockBitmaps) -> list[str]:
    """Makes pages of a diff undecided that a last look at its file does not confirm.

    A page that became a hole during the scan is not zero, nor known to be unchanged: a worker may
    have read the zeros of the hole. What the file system reserved ahead of a writer reads as zeros
    too: a page there that has none was written, any other may not have been.
    """
    ram = block.ram
    where = (ram.start, block.file_end)
    notes = []
    before = bitmaps.counts(diff=True).undecided
    for run in page_runs(diffs.data(block.file, *where), ram, "full"):
        if run.hole:  # pages that were holes before have neither bit
            _native.bits_clear(bitmaps.zero, run.first, run.pages)
            _native.bits_clear(bitmaps.normal, run.first, run.pages)
    new_holes = bitmaps.counts(diff=True).undecided - before
    if new_holes:
        notes.append(
            f"{block.source.text}: {new_holes} pages became holes during the scan: undecided"
        )
    for run in page_runs(diffs.unallocated_data(block.file, *where), ram, "full"):
        if not run.hole:
            _native.bits_clear(bitmaps.zero, run.first, run.pages)
    reserved = bitmaps.counts(diff=True).undecided - before - new_holes
    if reserved:
        notes.append(
            f"{block.source.text}: {reserved} zero pages may only be reserved by the file system, "
            "which has not allocated them yet: undecided"
        )
    return notes
