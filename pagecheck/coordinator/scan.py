"""`Coordinator.scan`: a whole block, once, by the threads that feed the channels."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from pagecheck import clock
from pagecheck.coordinator.block import Block
from pagecheck.coordinator.channel import Stop
from pagecheck.coordinator.pool import PAUSE, Job, Pool
from pagecheck.coordinator.settings import check_choice
from pagecheck.coordinator.walk import Stretch, stretches
from pagecheck.errors import UsageError
from pagecheck.model import Counts, Kind
from pagecheck.native import Feed, _native
from pagecheck.plan import PartialPage, no_diff
from pagecheck.report.report import BlockReport
from pagecheck.report.statistics import ChannelReport
from pagecheck.shm.bitmaps import BlockBitmaps

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import NamedTuple

    from pagecheck.coordinator.channel import Channel
    from pagecheck.coordinator.sink import Sink
    from pagecheck.shm.process_ram import Running
    from pagecheck.shm.rest import Rest
else:
    from pagecheck.typed import NamedTuple

PACE_NS = 100_000_000
SETTLE_NS = 300_000_000  # for what is in a worker's hands when a scan that copies ends early

Progress = Callable[[int, int], None]


class ScanOptions(NamedTuple):
    """How a block is scanned; `Coordinator.scan` documents the fields."""

    kind: Kind
    batch_pages: int
    max_rate: int | None
    deadline_ns: int
    progress: Progress | None


class ScanWork:
    """Deals out the pages that have to be looked at, and keeps to a byte rate.

    Attributes:
        done_pages: pages that were submitted or answered as holes.
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
        self._stop = stop
        self._rate = options.max_rate
        self._deadline_ns = options.deadline_ns
        self._channels = channels
        self._batch_pages = options.batch_pages
        # Half a ring: what a feeder thread can submit when it wakes.
        self._span_pages = options.batch_pages * (slots // 2)
        if self._rate is not None:
            paced = self._rate * PACE_NS // 1_000_000_000 // block.ram.page_size
            self._batch_pages = self._span_pages = max(1, min(self._span_pages, paced))
        self._next_ns = clock.now_ns()
        self._lock = threading.Lock()
        self._left = Stretch(0, 0, 0)
        self._stretches = stretches(block, bitmaps, options.kind, self._batch_pages)

    def take(self) -> tuple[int, int] | None:
        """The next pages as (first page, count), those in holes not to be submitted; None when
        there are no more; PAUSE when the rate does not allow more yet."""
        with self._lock:
            if self.error is not None:
                return None
            sink = self._block.sink
            if sink is not None and sink.write_error is not None:
                self._stop.set()  # what is left could not be written either
                return None
            if self._rate is not None and clock.now_ns() < self._next_ns:
                return PAUSE
            try:
                taken = self._take_locked()
            except PartialPage as error:
                from pagecheck.coordinator.diff import partial_page

                self.error = partial_page(self._block, error)
            except Exception as error:
                self.error = error
            else:
                if taken is None:
                    return None
                self._reserve(taken.pages)
                return taken.first, taken.span
        self._stop.set()
        return None

    def _reserve(self, pages: int) -> None:
        """The time that these pages take at the given rate."""
        if self._rate is not None:
            cost_ns = pages * self._block.ram.page_size * 1_000_000_000 // self._rate
            self._next_ns = max(self._next_ns, clock.now_ns()) + cost_ns

    def close(self) -> None:
        """Releases a walk that was ended early; it holds this object, which holds it."""
        with self._lock:
            self._stretches = iter(())

    def pause(self) -> None:
        """Waits until the rate allows more, the scan is stopped or its deadline passes."""
        until = min(self._next_ns, self._deadline_ns)
        while not self._stop.is_set() and (left := until - clock.now_ns()) > 0:
            self._stop.wait(min(left, PACE_NS) / 1e9)

    def _take_locked(self) -> Stretch | None:
        while self._left.pages == 0:
            if self._stop.is_set() or clock.now_ns() >= self._deadline_ns:
                return None
            found = next(self._stretches, None)
            if found is None:
                self.smallest = min(self.smallest, self._block.source.size)
                self.done_pages = self._block.ram.pages
                return None
            self._left = found
        first, span, pages = self._left
        count = span
        if span == pages:  # towards its end less at a time: all feeder threads end together
            share = pages // (2 * self._channels)
            most = max(self._batch_pages, min(self._span_pages, share))
            count = pages = min(pages, most)
        self._left = Stretch(first + count, span - count, self._left.pages - pages)
        self.done_pages = first + count
        return Stretch(first, count, pages)


class ScanResult(NamedTuple):
    """What a scan of one block found, before it becomes a report.

    Attributes:
        bytes_checked: pages that an engine looked at, in bytes.
        why_live: why the answer is no more than a hint; None where the file did not change.
        written: pages that were written to the block's sink.
        write_error: the errno of the first write to it that failed; None: none did.
    """

    report: BlockReport
    bytes_checked: int
    notes: tuple[str, ...]
    workers: tuple[ChannelReport, ...] = ()
    why_live: str | None = None
    written: int = 0
    write_error: int | None = None


def check_kind(block: Block, kind: Kind, engine: str) -> None:
    """Raises UsageError or SourceError where a diff snapshot cannot be understood."""
    check_choice("kind", kind, Kind)
    if kind == "full":
        return
    if not block.source.is_file:
        raise no_diff(block.source.text)
    if engine == "none":
        raise UsageError("a diff snapshot cannot be scanned with engine none: it reads no holes")
    if block.holes == "read":
        raise UsageError("a diff snapshot needs its holes: do not combine it with holes='read'")
    from pagecheck.shm.diffs import require_exact

    require_exact(block.file, block.ram.page_size)


def scan_none(block: Block, bitmaps: BlockBitmaps) -> ScanResult:
    """Engine `none`: every page is normal, holes too, and nothing is read."""
    rest = block.watch()
    _native.bits_set(bitmaps.normal, 0, bitmaps.pages)
    report = block_report(block, bitmaps, bitmaps.counts(diff=False))
    return ScanResult(report, 0, (), why_live=rest.end())


def scan(
    pool: Pool, block: Block, bitmaps: BlockBitmaps, options: ScanOptions, stop: Stop
) -> ScanResult:
    """Scans a block on all channels; see `Coordinator.scan`."""
    with contextlib.closing(block.watch()) as rest:
        return _scan(pool, block, bitmaps, options, stop, rest)


def _scan(
    pool: Pool,
    block: Block,
    bitmaps: BlockBitmaps,
    options: ScanOptions,
    stop: Stop,
    rest: Rest | Running,
) -> ScanResult:
    work = ScanWork(block, bitmaps, options, len(pool.channels), pool.slots, stop)

    def begin(feed: Feed) -> None:
        size = (options.batch_pages, bitmaps.pages, block.ram.page_size)
        feed.begin_range(block.id, *size, bitmaps.zero, bitmaps.normal, bitmaps.hole)

    def watch() -> None:
        if options.progress is not None:
            page = block.ram.page_size
            options.progress(work.done_pages * page, block.ram.size)

    job = Job(block, begin, work.take, stop, options.deadline_ns, pause=work.pause)
    with copying(pool, block, options, stop), contextlib.closing(work):
        outcomes = pool.run(job, len(pool.channels), watch if options.progress else None)
    if work.error is not None:
        raise work.error
    why_live = rest.end()
    notes = [note for outcome in outcomes for note in outcome.notes]
    notes += forget_past_end(block, bitmaps, min(work.smallest, rest.size, rest.size_after))
    if options.kind == "diff":
        from pagecheck.coordinator.diff import forget_uncertain

        notes += forget_uncertain(block, bitmaps)
    if rest.size_after > rest.size:
        notes.append(
            f"{block.source.text}: grew from {rest.size:#x} to {rest.size_after:#x} bytes during "
            "the scan; the new part was not looked at"
        )
    notes += forget_exchanged(block, bitmaps)
    notes += forget_unwritten(block, bitmaps)
    counts = bitmaps.counts(diff=options.kind == "diff")
    counts, swapped = count_swapped(block, bitmaps, counts)
    notes += swapped
    if counts.undecided and not notes:
        notes.append(why_undecided(counts.undecided, options.deadline_ns, stop))
    looked_at = sum(outcome.decided for outcome in outcomes) * block.ram.page_size
    report = block_report(block, bitmaps, counts, diff=options.kind == "diff")
    return ScanResult(report, looked_at, tuple(notes), (), why_live, *written(block))


def written(block: Block) -> tuple[int, int | None]:
    """The pages that a scan wrote to the block's sink, and its first error."""
    return (0, None) if block.sink is None else (block.sink.written, block.sink.write_error)


def forget_past_end(block: Block, bitmaps: BlockBitmaps, smallest: int) -> list[str]:
    """Makes pages past the end of a file undecided; returns the notes.

    Args:
        smallest: the smallest size that the file was seen to have, in bytes.
    """
    inside = block.pages_inside(smallest)
    if inside == bitmaps.pages:
        return []
    bitmaps.forget_from(inside)
    return [block.past_end(smallest)]


def forget_exchanged(block: Block, bitmaps: BlockBitmaps) -> list[str]:
    """Makes every page undecided where another process's memory was not what it was at the
    beginning; returns the notes."""
    why = block.verify()
    if why is None:
        return []
    bitmaps.forget_from(0)
    return [why]


def count_swapped(block: Block, bitmaps: BlockBitmaps, counts: Counts) -> tuple[Counts, list[str]]:
    """The counts with the undecided pages that are swapped out, and a note on them."""
    if not counts.undecided:
        return counts, []
    swapped = block.source.swapped(block.ram, bitmaps.zero, bitmaps.normal)
    if not swapped:
        return counts, []
    note = (
        f"{block.source.text}: {swapped} pages are swapped out, and undecided; --swapped read "
        "reads them, which brings them in"
    )
    return counts._replace(swapped=min(swapped, counts.undecided)), [note]


@contextlib.contextmanager
def copying(
    pool: Pool, block: Block, options: ScanOptions, stop: threading.Event
) -> Iterator[None]:
    """The block's pages are copied meanwhile; at the end nobody writes to its sink any more.

    Raises:
        UsageError: the sink is in use, or cannot be used again.
    """
    if block.sink is None:
        yield
        return
    block.sink.begin()
    early = True
    try:
        yield
        early = stop.is_set() or clock.now_ns() >= options.deadline_ns
    finally:
        settle_sink(pool, block.sink, early=early)


def settle_sink(pool: Pool, sink: Sink, *, early: bool) -> None:
    """After a scan, or what was done of it. Where a worker cannot be reached, since its channel is
    somebody else's by now, or does not end, the sink stays stopped and in use.

    Args:
        early: the scan may have left batches behind that are not answered.
    """
    if early and any(_may_write(channel) for channel in pool.channels):
        until_ns = clock.now_ns() + SETTLE_NS
        sink.stop()
        pool.visit_idle(lambda channel: channel.settle(until_ns), until_ns + SETTLE_NS)
        if any(_may_write(channel) for channel in pool.channels):
            return
    sink.release()


def _may_write(channel: Channel) -> bool:
    """Whether a worker may have a batch of an earlier scan in progress."""
    try:
        return channel.may_write
    except RuntimeError:  # after an interrupt a feeder thread may still be in it
        return True


def forget_unwritten(block: Block, bitmaps: BlockBitmaps) -> list[str]:
    """Makes every page undecided where somebody truncated the block's sink; returns the notes on
    what was not written."""
    sink = block.sink
    if sink is None:
        return []
    sink.end()
    if sink.truncated:
        bitmaps.forget_from(0)
    why = sink.why_incomplete()
    return [] if why is None else [why]


def why_undecided(pages: int, deadline_ns: int, stop: threading.Event) -> str:
    """The note on pages that nobody else explained."""
    if stop.is_set():
        return f"the scan was stopped: {pages} pages are undecided"
    if clock.now_ns() >= deadline_ns:
        return f"the deadline passed: {pages} pages are undecided"
    return f"{pages} pages could not be read and are undecided"


def block_report(
    block: Block, bitmaps: BlockBitmaps, counts: Counts, *, diff: bool = False
) -> BlockReport:
    """What is reported of the block."""
    zero, normal, hole = (
        words.toreadonly() for words in (bitmaps.zero, bitmaps.normal, bitmaps.hole)
    )
    return BlockReport(
        block.ram,
        counts,
        zero,
        normal,
        unchanged=hole if diff else None,
        hole=None if diff else hole,
    )
