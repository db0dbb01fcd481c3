"""A scan of some pages of a block: ranges, or the bits of a bitmap such as a dirty log.

Their answers go to the block's bitmaps; every other page has neither bit. Pages are worked on in
windows, so that a block of any size needs little memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from pagecheck.coordinator.block import CHECK_PAGES, CHECK_PAGES_MAX
from pagecheck.coordinator.channel import Stop
from pagecheck.coordinator.check import Pieces
from pagecheck.coordinator.pool import Job, Pool
from pagecheck.coordinator.scan import (
    ScanResult,
    block_report,
    copying,
    forget_exchanged,
    forget_past_end,
    forget_unwritten,
    why_undecided,
    written,
)
from pagecheck.errors import UsageError
from pagecheck.model import Counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.channel import Outcome
    from pagecheck.coordinator.scan import ScanOptions
    from pagecheck.native import Feed
    from pagecheck.shm.bitmaps import BlockBitmaps

WINDOW_PAGES: Final = 1 << 18  # 1 GiB of 4 KiB pages; a multiple of 64


class Selection(Protocol):
    """Some pages of a block."""

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """bool[count]: which of the pages from `first` (a multiple of 64) on are selected."""


class Ranges:
    """Pages by index and count."""

    def __init__(self, ranges: Sequence[tuple[int, int]], pages: int) -> None:
        """Checks and sorts them; they may overlap.

        Args:
            ranges: (first page, number of pages).
            pages: pages of the block.

        Raises:
            UsageError: a range is empty, negative or outside the block.
        """
        for index, (first, count) in enumerate(ranges):
            if first < 0 or count <= 0 or first + count > pages:
                raise UsageError(
                    f"ranges[{index}]: {count} pages from page {first}: not inside the block of "
                    f"{pages} pages"
                )
        self._ranges = np.array(sorted(ranges), np.uint64).reshape(-1, 2)

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """See `Selection`."""
        chosen = np.zeros(count, np.bool_)
        begins = self._ranges[:, 0].astype(np.int64)
        ends = begins + self._ranges[:, 1].astype(np.int64)
        inside = (begins < first + count) & (ends > first)
        for begin, end in zip(begins[inside].tolist(), ends[inside].tolist(), strict=True):
            chosen[max(begin - first, 0) : end - first] = True
        return chosen


class Bitmap:
    """Pages whose bit is set in a file: little-endian words, bit i % 64 of word i / 64 is page i,
    as in KVM's dirty log. It is read piece by piece as the work goes, never mapped."""

    def __init__(self, fd: int, pages: int) -> None:
        """Looks at the size only.

        Args:
            fd: open for reading; stays the caller's.
            pages: pages of the block.

        Raises:
            UsageError: the file is too short for that many pages.
        """
        need = (pages + 63) // 64 * 8
        size = os.fstat(fd).st_size
        if size < need:
            raise UsageError(
                f"bitmap of {size} bytes: a block of {pages} pages needs {need} bytes of whole "
                "64-bit words"
            )
        self._fd = fd

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """See `Selection`.

        Raises:
            UsageError: the file was truncated.
        """
        wanted = (count + 7) // 8
        raw = os.pread(self._fd, wanted, first // 8)
        if len(raw) < wanted:
            raise UsageError("bitmap: the file was truncated while it was read")
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little")
        return bits.view(np.bool_)


def windows(pages: int) -> Iterator[tuple[int, int]]:
    """(first page, number of pages) of every window of a block."""
    for first in range(0, pages, WINDOW_PAGES):
        yield first, min(WINDOW_PAGES, pages - first)


def scan_selected(
    pool: Pool,
    block: Block,
    bitmaps: BlockBitmaps,
    selection: Selection,
    options: ScanOptions,
    stop: Stop,
) -> ScanResult:
    """Decides the selected pages on all channels, window by window.

    Holes are answered by the workers, as zero; which of the zero pages are holes is not reported.

    Raises:
        UsageError: the selection's file was truncated.
        EngineError: no channel is left.
    """
    with contextlib.closing(block.watch()) as rest:
        page = block.ram.page_size
        outcomes: list[Outcome] = []
        selected = 0
        with copying(pool, block, options, stop):  # of all windows: one that ends is not the end
            for first, count in windows(block.ram.pages):
                chosen = np.flatnonzero(selection.window(first, count))
                if len(chosen) == 0:
                    continue
                selected += len(chosen)
                offsets = (chosen.astype(np.uint64) + np.uint64(first)) * np.uint64(page)

                def watch(done: int = first) -> None:
                    if options.progress is not None:
                        options.progress(done * page, block.ram.size)

                zero, decided, ended = _decide(
                    pool, block, offsets, options.deadline_ns, stop, watch
                )
                outcomes += ended
                _publish(bitmaps, first, count, chosen, zero, decided)
        why_live = rest.end()
        notes = [note for outcome in outcomes for note in outcome.notes]
        notes += forget_past_end(block, bitmaps, min(rest.size, rest.size_after))
        notes += forget_exchanged(block, bitmaps)
        notes += forget_unwritten(block, bitmaps)
        everything = bitmaps.counts(diff=False)
        undecided = selected - everything.zero - everything.normal
        counts = Counts(selected, everything.zero, 0, everything.normal, undecided)
        if undecided and not notes:
            notes.append(why_undecided(undecided, options.deadline_ns, stop))
        looked_at = sum(outcome.decided for outcome in outcomes) * page
        report = block_report(block, bitmaps, counts)
        return ScanResult(report, looked_at, tuple(notes), (), why_live, *written(block))


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
    work = Pieces(len(offsets), CHECK_PAGES_MAX)

    def begin(feed: Feed) -> None:
        feed.begin_offsets(block.id, CHECK_PAGES, offsets, zero, decided)

    job = Job(block, begin, work.take, stop, deadline_ns)
    threads = min(len(pool.channels), -(-len(offsets) // (CHECK_PAGES_MAX)))
    return zero, decided, pool.run(job, threads, watch)


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
