"""The work of one scan, shared by the threads that feed the channels.

The extents of the file are walked as the scan goes, always after it was asked for: a hole that is
answered here was a hole during this scan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pagecheck import clock
from pagecheck.coordinator.block import Block
from pagecheck.coordinator.pool import PAUSE, Stop
from pagecheck.errors import SourceError
from pagecheck.model import Kind
from pagecheck.native import _native
from pagecheck.plan import PartialPage, Run, common_page_size, page_runs
from pagecheck.shm.bitmaps import BlockBitmaps

PACE_NS = 100_000_000

Progress = Callable[[int, int], None]


class ScanOptions(NamedTuple):
    """How a block is scanned; `Coordinator.scan` documents the fields."""

    kind: Kind
    batch_pages: int
    max_rate: int | None
    deadline_ns: int
    progress: Progress | None


class ScanWork:
    """Hands out runs of data pages, publishes holes on the way, and keeps to a byte rate.

    Attributes:
        done_pages: pages that were given out or answered as holes.
        smallest: the smallest size that the file was seen to have.
        error: what ended the walk early.
    """

    def __init__(
        self,
        block: Block,
        bitmaps: BlockBitmaps,
        options: ScanOptions,
        channels: int,
        slots: int,
        stop: Stop,
    ) -> None:
        """Nothing is looked up before the first `take`.

        Args:
            bitmaps: where holes are published.
            channels: how many take from it.
            slots: slots of their rings.
            stop: set here when the walk fails; ends the waits of the pace.
        """
        self.done_pages = 0
        self.smallest = block.source.size
        self.error: BaseException | None = None
        self._block = block
        self._bitmaps = bitmaps
        self._kind = options.kind
        self._stop = stop
        self._rate = options.max_rate
        self._deadline_ns = options.deadline_ns
        self._channels = channels
        self._batch_pages = options.batch_pages
        # Half a ring: what a lane can give out when it wakes.
        self._span_pages = options.batch_pages * (slots // 2)
        if self._rate is not None:
            paced = self._rate * PACE_NS // 1_000_000_000 // block.ram.page_size
            self._batch_pages = self._span_pages = max(1, min(self._span_pages, paced))
        self._next_ns = clock.now_ns()
        self._lock = threading.Lock()
        self._run = Run(False, 0, 0)
        self._runs = self._walk()

    def _walk(self) -> Iterator[Run]:
        ram = self._block.ram
        end = ram.start + ram.size
        extents: Iterator[tuple[int, int]]
        if self._kind == "diff":
            from pagecheck.shm import diffs

            extents = diffs.data(self._block.source, ram.start, end)
        elif self._block.trust_holes and not self._block.is_dense():
            extents = self._block.source.extents(ram.start, end)
        else:
            extents = iter([(ram.start, end)])
        yield from page_runs(extents, ram, self._kind)

    def take(self) -> tuple[int, int] | None:
        """The next data pages as (first page, count); None when there are no more; PAUSE when
        the rate does not allow more yet."""
        with self._lock:
            if self.error is not None:
                return None
            if self._rate is not None and clock.now_ns() < self._next_ns:
                return PAUSE
            try:
                taken = self._take_locked()
            except PartialPage as error:
                self.error = self._partial_page(error)
            except Exception as error:
                self.error = error
            else:
                self._reserve(taken)
                return taken
        self._stop.set()
        return None

    def _reserve(self, taken: tuple[int, int] | None) -> None:
        """The time that these pages take at the given rate."""
        if taken is not None and self._rate is not None:
            cost_ns = taken[1] * self._block.ram.page_size * 1_000_000_000 // self._rate
            self._next_ns = max(self._next_ns, clock.now_ns()) + cost_ns

    def close(self) -> None:
        """Lets go of a walk that was ended early; it holds this object, which holds it."""
        with self._lock:
            self._runs = iter(())

    def pause(self) -> None:
        """Waits until the rate allows more, the scan is stopped or its deadline passes."""
        until = min(self._next_ns, self._deadline_ns)
        while not self._stop.is_set() and (left := until - clock.now_ns()) > 0:
            self._stop.wait(min(left, PACE_NS) / 1e9)

    def _take_locked(self) -> tuple[int, int] | None:
        while self._run.pages == 0:
            run = next(self._runs, None)
            if run is None:
                self.smallest = min(self.smallest, self._block.source.size)
                return None
            if run.hole:
                self._publish_hole(run)
            else:
                self._run = run
        # Towards the end of a run the spans get smaller, so that all lanes end together.
        share = self._run.pages // (2 * self._channels)
        most = max(self._batch_pages, min(self._span_pages, share))
        first, count = self._run.first, min(self._run.pages, most)
        self._run = Run(False, first + count, self._run.pages - count)
        self.done_pages += count
        return first, count

    def _publish_hole(self, run: Run) -> None:
        _native.bits_set(self._bitmaps.hole, run.first, run.pages)
        if self._kind == "full":
            _native.bits_set(self._bitmaps.zero, run.first, run.pages)
        self.done_pages += run.pages

    def _partial_page(self, error: PartialPage) -> SourceError:
        from pagecheck.shm import diffs

        source, ram = self._block.source, self._block.ram
        fits = common_page_size(diffs.data(source, ram.start, ram.start + ram.size), ram)
        way_out = f"use --page-size {fits}" if fits >= 4096 else "no page size fits this file"
        if fits < 4096 and diffs.is_inline(source):
            way_out = "the file system keeps the file's first bytes inline, in its inode"
        return SourceError(
            f"{source.text}: a page of {ram.page_size} bytes is part hole, part data at offset "
            f"{error.offset:#x}, so it is neither changed nor unchanged; {way_out}"
        )
