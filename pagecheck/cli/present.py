"""A report for the terminal: a table, runs of pages, a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType

from pagecheck import clock
from pagecheck.model import Counts
from pagecheck.native import _native
from pagecheck.printable import printable, printable_lines
from pagecheck.report.report import BlockReport, Report

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import TextIO

    from rich.progress import Progress, TaskID

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: float) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if size == int(size) else f"{size:.1f} {_UNITS[unit]}"


def columns(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    """Rows of cells as aligned text: the columns of these numbers to the left, the others to the
    right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table(report: Report) -> str:
    """The report for people: one row per block, then what was used and how long it took."""
    diff = any(block.unchanged is not None for block in report.blocks)
    head = ["block", "size", "pages", "zero", "of which holes", "normal", "undecided"]
    head += ["unchanged"] if diff else []
    rows = [[*head, "zero share"]]
    for block in report.blocks:
        rows.append(_row(printable(block.block.name), block.block.size, block.counts, diff=diff))
    if len(report.blocks) > 1:
        size = sum(block.block.size for block in report.blocks)
        rows.append(_row("total", size, report.total, diff=diff))
    return "\n".join(
        [
            printable_lines(columns(rows)),
            printable(_summary(report)),
            *_why_live(report),
            *_pause(report),
            *_regions(report),
            *_queues(report),
            *(f"note: {printable(n)}" for n in report.notes),
        ]
    )


def _why_live(report: Report) -> list[str]:
    why = report.why_live
    if why is None or any(why in note for note in report.notes):
        return []
    return [f"live: {printable(why)}"]


def _pause(report: Report) -> list[str]:
    if report.pause is None:
        return []
    if not report.pause.stopped_by_us:
        return ["the VM was paused already, and is left so"]
    if report.pause.left_stopped:
        return ["the VM is left stopped"]
    return [f"the VM was paused for {report.pause.seconds * 1e3:.1f} ms"]


def _regions(report: Report) -> list[str]:
    """Where the blocks lie in guest-physical memory, where that was asked for."""
    return [
        f"{printable(block.block.name)}: guest-physical {region.guest_phys_addr:#x} to "
        f"{region.guest_phys_addr + region.memory_size - 1:#x} is "
        f"{size_text(region.memory_size)} at offset {region.mmap_offset:#x}"
        for block in report.blocks
        for region in block.regions
    ]


def _queues(report: Report) -> list[str]:
    """The work queues' counters; where there were no queues, why."""
    missing = [
        f"channel {each.channel} has no queue: {printable(each.why)}"
        for each in report.workers
        if each.engine != "dsa" and each.why != "asked for" and not each.why.startswith("no DSA")
    ]
    if report.engine != "dsa":
        return missing[:1]
    counted = report.statistics
    names = sorted({f"{each.queue} ({each.submit})" for each in report.workers if each.queue})
    lines = [
        f"queues: {', '.join(map(printable, names))}",
        f"pages by device {counted.pages_device:,}, by sampling {counted.pages_sampled:,}, "
        f"completed by the CPU {counted.pages_completed:,}, "
        f"by the CPU alone {counted.pages_cpu:,}",
        f"{counted.descriptors:,} descriptors, {counted.batches:,} batches; "
        f"{counted.page_faults:,} page faults, {counted.retries:,} retries, "
        f"{counted.queue_full:,} times full, {counted.timeouts:,} timeouts; "
        f"submitting {counted.submit_ns / 1e6:.1f} ms, waiting {counted.wait_ns / 1e6:.1f} ms, "
        f"CPU {counted.cpu_ns / 1e6:.1f} ms",
    ]
    return lines + missing


def _row(name: str, size: int, counts: Counts, *, diff: bool) -> list[str]:
    tenths = 1000 * counts.zero // counts.pages  # never rounded up to 100 %
    share = f"{tenths // 10}.{tenths % 10} %"
    numbers = [counts.pages, counts.zero, counts.hole, counts.normal, counts.undecided]
    numbers += [counts.unchanged] if diff else []
    return [name, size_text(size), *(f"{n:,}" for n in numbers), share]


def _summary(report: Report) -> str:
    working = report.seconds - report.startup_seconds
    rate = report.bytes_checked / working / 1e9 if working > 0 else 0.0
    meaning = {
        "at-rest": "the file did not change meanwhile",
        "live": "a hint: the RAM may have changed meanwhile",
        "paused": "the guest was paused",
    }[report.answer]
    kernel = f", kernel {report.kernel}" if report.kernel else ""
    plural = "" if report.channels == 1 else "s"
    return (
        f"engine {report.engine}{kernel}, {report.channels} channel{plural}; "
        f"{report.seconds:.2f} s (start-up {report.startup_seconds:.2f} s), {rate:.1f} GB/s "
        f"checked; {report.answer}: {meaning}"
    )


def guest_runs(block: BlockReport) -> Iterator[tuple[int, int, str]]:
    """The runs of `runs` by guest-physical address, in ascending order.

    Yields:
        (guest-physical address, bytes, kind); parts of the block that the guest does not see are
        left out, runs are cut at the edges of regions.
    """
    ram = block.block
    kinds = [
        (first * ram.page_size, (first + count) * ram.page_size, kind)
        for first, count, kind in runs(block)
    ]
    for region in sorted(block.regions):
        begin = region.mmap_offset - ram.start
        end = begin + region.memory_size
        for first, last, kind in kinds:
            low, high = max(begin, first), min(end, last)
            if low < high:
                yield region.guest_phys_addr + low - begin, high - low, kind


def runs(block: BlockReport) -> Iterator[tuple[int, int, str]]:
    """Runs of pages of one kind, in order, that cover the block.

    Yields:
        (first page, count, "zero" | "normal" | "unchanged" | "undecided").
    """
    pages = block.block.pages
    bitmaps = [("zero", block.zero), ("normal", block.normal)]
    if block.unchanged is not None:
        bitmaps.append(("unchanged", block.unchanged))
    at = 0
    while at < pages:
        kind, end = "undecided", pages
        for name, words in bitmaps:
            is_set, run_end = _native.bits_run(words, pages, at)
            if is_set:
                kind, end = name, run_end
                break
            end = min(end, run_end)
        yield at, end - at, kind
        at = end


class ProgressBar:
    """A bar on stderr that appears once the work takes longer than about a second."""

    def __init__(self, stream: TextIO | None = None, doing: str = "scanning") -> None:
        """Writes to `stream` (stderr by default), which is a terminal.

        Args:
            doing: what the bar is called.
        """
        self._doing = doing
        self._stream = stream or sys.stderr
        self._started = clock.now_s()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int, also: str = "") -> None:
        """Shows that `done` of `total` bytes are answered.

        Args:
            also: said before that.
        """
        if self._bar is None:
            if clock.now_s() - self._started < 1.0:
                return
            self._open(total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, also=also)

    def _open(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            self._doing,
            TextColumn("{task.fields[also]}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        self._task = self._bar.add_task(self._doing, total=total, also="")
        self._bar.start()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
