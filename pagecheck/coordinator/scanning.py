"""`Coordinator.scan`: a whole block, once."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from pagecheck import clock
from pagecheck.coordinator.block import Block
from pagecheck.coordinator.limits import check_choice
from pagecheck.coordinator.pool import Job, Pool, Stop
from pagecheck.coordinator.scanwork import ScanOptions, ScanWork
from pagecheck.errors import UsageError
from pagecheck.model import AnswerKind, Counts, Kind
from pagecheck.native import Feed, _native
from pagecheck.plan import page_runs
from pagecheck.report.report import BlockReport
from pagecheck.report.statistics import ChannelReport
from pagecheck.shm.bitmaps import BlockBitmaps
from pagecheck.shm.rest import Rest


class ScanResult(NamedTuple):
    """What a scan of one block found, before it becomes a report.

    Attributes:
        bytes_checked: pages that an engine looked at, in bytes.
        why_live: why a live answer is one; None for others.
    """

    report: BlockReport
    answer: AnswerKind
    bytes_checked: int
    notes: tuple[str, ...]
    workers: tuple[ChannelReport, ...] = ()
    why_live: str | None = None


def check_kind(block: Block, kind: Kind, engine: str) -> None:
    """Raises UsageError or SourceError where a diff snapshot cannot be understood."""
    check_choice("kind", kind, Kind)
    if kind == "full":
        return
    if engine == "none":
        raise UsageError("a diff snapshot cannot be scanned with engine none: it reads no holes")
    if block.holes == "read":
        raise UsageError("a diff snapshot needs its holes: do not combine it with holes='read'")
    from pagecheck.shm.diffs import require_exact

    require_exact(block.source, block.ram.page_size)


def scan_none(block: Block, bitmaps: BlockBitmaps) -> ScanResult:
    """Engine `none`: every page is normal, holes too, and nothing is read."""
    rest = Rest(block.source)
    _native.bits_set(bitmaps.normal, 0, bitmaps.pages)
    report = block_report(block, bitmaps, bitmaps.counts(diff=False))
    return result(report, 0, [], rest.end())


def scan(
    pool: Pool, block: Block, bitmaps: BlockBitmaps, options: ScanOptions, stop: Stop
) -> ScanResult:
    """Scans a block on all channels; see `Coordinator.scan`."""
    with contextlib.closing(Rest(block.source)) as rest:
        return _scan(pool, block, bitmaps, options, stop, rest)


def _scan(
    pool: Pool, block: Block, bitmaps: BlockBitmaps, options: ScanOptions, stop: Stop, rest: Rest
) -> ScanResult:
    work = ScanWork(block, bitmaps, options, len(pool.channels), pool.slots, stop)

    def begin(feed: Feed) -> None:
        feed.begin_range(block.id, options.batch_pages, bitmaps.pages, bitmaps.zero, bitmaps.normal)

    def watch() -> None:
        if options.progress is not None:
            page = block.ram.page_size
            options.progress(work.done_pages * page, block.ram.size)

    job = Job(block, begin, work.take, stop, options.deadline_ns, urgent=False, pause=work.pause)
    try:
        outcomes = pool.run(job, len(pool.channels), watch)
    finally:
        work.close()
    if work.error is not None:
        raise work.error
    why_live = rest.end()
    notes = [note for outcome in outcomes for note in outcome.notes]
    notes += forget_past_end(block, bitmaps, min(work.smallest, rest.size, rest.size_after))
    if options.kind == "diff":
        notes += _forget_doubtful(block, bitmaps)
    if rest.size_after > rest.size:
        notes.append(
            f"{block.source.text}: grew from {rest.size:#x} to {rest.size_after:#x} bytes during "
            "the scan; the new part was not looked at"
        )
    counts = bitmaps.counts(diff=options.kind == "diff")
    if counts.undecided and not notes:
        notes.append(why_undecided(counts.undecided, options.deadline_ns, stop))
    looked_at = sum(outcome.decided for outcome in outcomes) * block.ram.page_size
    report = block_report(block, bitmaps, counts, diff=options.kind == "diff")
    return result(report, looked_at, notes, why_live)


def result(
    report: BlockReport, looked_at: int, notes: list[str], why_live: str | None
) -> ScanResult:
    """What a scan gives, and what it is worth.

    Args:
        looked_at: bytes.
        why_live: what `Rest.end` said.
    """
    answer: AnswerKind = "at-rest" if why_live is None else "live"
    return ScanResult(report, answer, looked_at, tuple(notes), why_live=why_live)


def forget_past_end(block: Block, bitmaps: BlockBitmaps, smallest: int) -> list[str]:
    """Bytes past the end of a file that was cut short look like zeros: not decided."""
    inside = block.pages_inside(smallest)
    if inside == bitmaps.pages:
        return []
    bitmaps.forget_from(inside)
    offset = inside * block.ram.page_size
    return [
        f"{block.source.text}: was cut to {smallest:#x} bytes during the scan: pages of block "
        f"{block.ram.name} from offset {offset:#x} are undecided"
    ]


def _forget_doubtful(block: Block, bitmaps: BlockBitmaps) -> list[str]:
    """Pages of a diff that a last look at its file leaves in doubt.

    A page that became a hole during the scan is not zero, nor known to be unchanged: a worker may
    have read the zeros of the hole. What the file system reserved ahead of a writer reads as zeros
    too: a page there that has none was written, any other may not have been.
    """
    from pagecheck.shm import diffs

    ram = block.ram
    where = (ram.start, block.file_end)
    notes = []
    before = bitmaps.counts(diff=True).undecided
    for run in page_runs(diffs.data(block.source, *where), ram, "full"):
        if run.hole:  # pages that were holes before have neither bit
            _native.bits_clear(bitmaps.zero, run.first, run.pages)
            _native.bits_clear(bitmaps.normal, run.first, run.pages)
    new_holes = bitmaps.counts(diff=True).undecided - before
    if new_holes:
        notes.append(
            f"{block.source.text}: {new_holes} pages became holes during the scan: undecided"
        )
    for run in page_runs(diffs.data_without_place(block.source, *where), ram, "full"):
        if not run.hole:
            _native.bits_clear(bitmaps.zero, run.first, run.pages)
    reserved = bitmaps.counts(diff=True).undecided - before - new_holes
    if reserved:
        notes.append(
            f"{block.source.text}: {reserved} zero pages may only be reserved by the file system, "
            "which has not allocated them yet: undecided"
        )
    return notes


def why_undecided(pages: int, deadline_ns: int, stop: Stop) -> str:
    """The note on pages that nobody else explained."""
    if stop.is_set():
        return f"the scan was stopped: {pages} pages are undecided"
    if clock.now_ns() >= deadline_ns:
        return f"the deadline passed: {pages} pages are undecided"
    return f"{pages} pages could not be read and are undecided"


def block_report(
    block: Block, bitmaps: BlockBitmaps, counts: Counts, *, diff: bool = False
) -> BlockReport:
    """What is told of the block."""
    unchanged = bitmaps.hole.toreadonly() if diff else None
    return BlockReport(
        block.ram, counts, bitmaps.zero.toreadonly(), bitmaps.normal.toreadonly(), unchanged
    )
