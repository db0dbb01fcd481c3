"""A scan of selected pages: their answers in the block's bitmaps, every other page in neither."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pagecheck.coordinator.channel import CHECK_PAGES
from pagecheck.coordinator.checking import PIECE_BATCHES, Pieces
from pagecheck.coordinator.pool import Job, Pool, Stop
from pagecheck.coordinator.scanning import (
    ScanResult,
    block_report,
    forget_past_end,
    result,
    why_undecided,
)
from pagecheck.coordinator.selection import Selection, windows
from pagecheck.model import Counts
from pagecheck.shm.rest import Rest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.outcome import Outcome
    from pagecheck.coordinator.scanwork import ScanOptions
    from pagecheck.native import Feed
    from pagecheck.shm.bitmaps import BlockBitmaps


def scan_selected(
    pool: Pool,
    block: Block,
    bitmaps: BlockBitmaps,
    selection: Selection,
    options: ScanOptions,
    stop: Stop,
) -> ScanResult:
    """Decides the selected pages on all channels, window by window.

    Holes are answered by the workers, as zero; which of the zero pages are holes is not told.

    Raises:
        UsageError: the selection's file was cut short.
        EngineError: no channel is left.
    """
    with contextlib.closing(Rest(block.source)) as rest:
        return _scan(pool, block, bitmaps, selection, options, stop, rest)


def _scan(
    pool: Pool,
    block: Block,
    bitmaps: BlockBitmaps,
    selection: Selection,
    options: ScanOptions,
    stop: Stop,
    rest: Rest,
) -> ScanResult:
    page = block.ram.page_size
    outcomes: list[Outcome] = []
    selected = 0
    for first, count in windows(block.ram.pages):
        chosen = np.flatnonzero(selection.window(first, count))
        if len(chosen) == 0:
            continue
        selected += len(chosen)
        offsets = (chosen.astype(np.uint64) + np.uint64(first)) * np.uint64(page)

        def watch(done: int = first) -> None:
            if options.progress is not None:
                options.progress(done * page, block.ram.size)

        zero, decided, ended = _decide(pool, block, offsets, options.deadline_ns, stop, watch)
        outcomes += ended
        _publish(bitmaps, first, count, chosen, zero, decided)
    why_live = rest.end()
    notes = [note for outcome in outcomes for note in outcome.notes]
    notes += forget_past_end(block, bitmaps, min(rest.size, rest.size_after))
    everything = bitmaps.counts(diff=False)
    undecided = selected - everything.zero - everything.normal
    counts = Counts(selected, everything.zero, 0, everything.normal, undecided)
    if undecided and not notes:
        notes.append(why_undecided(undecided, options.deadline_ns, stop))
    looked_at = sum(outcome.decided for outcome in outcomes) * page
    return result(block_report(block, bitmaps, counts), looked_at, notes, why_live)


def _decide(
    pool: Pool,
    block: Block,
    offsets: NDArray[np.uint64],
    deadline_ns: int,
    stop: Stop,
    watch: Callable[[], None],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[Outcome]]:
    zero = np.zeros(len(offsets), np.bool_)
    decided = np.zeros(len(offsets), np.bool_)
    work = Pieces(len(offsets), CHECK_PAGES * PIECE_BATCHES)

    def begin(feed: Feed) -> None:
        feed.begin_offsets(block.id, CHECK_PAGES, offsets, zero, decided)

    job = Job(block, begin, work.take, stop, deadline_ns, urgent=False)
    lanes = min(len(pool.channels), -(-len(offsets) // (CHECK_PAGES * PIECE_BATCHES)))
    return zero, decided, pool.run(job, lanes, watch)


def _publish(
    bitmaps: BlockBitmaps,
    first: int,
    count: int,
    chosen: NDArray[np.intp],
    zero: NDArray[np.bool_],
    decided: NDArray[np.bool_],
) -> None:
    """Writes one window's answers; the windows' edges are multiples of 64 pages."""
    begin, end = first // 8, (first + count + 7) // 8
    for words, which in ((bitmaps.zero, zero), (bitmaps.normal, decided & ~zero)):
        bits = np.zeros(count, np.bool_)
        bits[chosen] = which
        words[begin:end] = np.packbits(bits, bitorder="little").tobytes()
