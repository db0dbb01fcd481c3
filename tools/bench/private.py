"""Private memory of another process: how fast it is decided, against the bare copy of it.

The process is a C program (private_ram.c), the bare copy another one (vm_readv.c). The scans are by
a Coordinator that stays, so that no start of a process is in a figure; where a row names the
command, it is the whole command.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import subprocess
import time
from typing import Final

import numpy as np

from pagecheck import Block, Coordinator
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.native import _native
from tools.bench.commands import pagecheck_command
from tools.bench.others_ram import BareCopy, PrivateRam, Scheduled, Took
from tools.bench.rows import Row, Spread

SIZE: Final = 1 << 30
PAGE: Final = 4096
BUFFER: Final = 512 << 10  # of a worker
UNTOUCHED: Final = 64 << 30
SMALL: Final = 16 << 20
UNTOUCHED_MS: Final = 100.0
SPARSE_MOST: Final = 1.3

FILLS: Final = {
    "zero": "zeros that were written",
    "half": "half-half mix",
    "full": "normal from byte 0",
}
PAGES: Final = {"small": "4 KiB pages", "huge": "huge pages"}


def _scan(coordinator: Coordinator, block: Block) -> Took:
    """One scan, with the CPU time of its workers.

    Raises:
        RuntimeError: not every page was decided, so that its time says nothing.
    """
    pids = coordinator.worker_pids
    ran, start = sum(Scheduled.of(pid).ran for pid in pids), time.perf_counter()
    report = coordinator.scan(block)
    wall = time.perf_counter() - start
    took = Took(wall, sum(Scheduled.of(pid).ran for pid in pids) - ran)
    if report.total.undecided:
        raise RuntimeError(f"{report.total.undecided} pages are undecided: {report.notes}")
    return took


def two_rows(row: Row, ours: list[Took], theirs: list[Took], more: Took | None = None) -> list[Row]:
    """By the clock, and by the CPU time, which says more where the CPUs are not free.

    Args:
        row: all but the figures.
        ours, theirs: of the repeats.
        more: what has to be done beyond the peer's work; together they are the limit.
    """
    rows = []
    for kind, what in (("wall", row.what), ("cpu", f"{row.what}, CPU time")):
        mine = [float(getattr(each, kind)) for each in ours]
        other = [float(getattr(each, kind)) for each in theirs]
        least = None if more is None else statistics.median(other) + getattr(more, kind)
        figures = (statistics.median(mine), statistics.median(other), least)
        ours_ns, theirs_ns, limit_ns = (_per_page(each) for each in figures)
        ratio = Spread.of([their / our for our, their in zip(mine, other, strict=True)])
        rows.append(
            dataclasses.replace(
                row, what=what, ratio=ratio, ours=ours_ns, theirs=theirs_ns, limit=limit_ns
            )
        )
    return rows


def _per_page(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e9 / (SIZE // PAGE)


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def check_in_cache(fill: str) -> float:
    """Seconds per page of the check alone, of what a worker has just copied.

    Args:
        fill: a key of `FILLS`.
    """
    pages = np.zeros((BUFFER // PAGE, PAGE), np.uint8)
    if fill != "zero":
        pages[:: 2 if fill == "half" else 1] = 0x55
    again = 64  # calls of the helper from Python cost time too
    offsets = np.tile(np.arange(len(pages), dtype=np.uint64) * np.uint64(PAGE), again)
    words = np.zeros(len(offsets) // 64, np.uint64)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        _native.kernel_zero_pages(_native.kernel_auto(), pages.reshape(-1), PAGE, offsets, words)
        took.append((time.perf_counter() - start) / len(offsets))
    return min(took)


def dense(repeats: int, fill: str, pages: str, channels: int) -> list[Row]:
    """Memory that is all there, against the bare copy of it into buffers of the same size.

    Args:
        repeats: of both, in turn.
        fill: a key of `FILLS`.
        pages: a key of `PAGES`.
        channels: of ours, and threads of the peer.
    """
    ours, theirs = [], []
    with PrivateRam(SIZE, fill, pages) as ram, Coordinator(channels) as own, BareCopy() as peer:
        block = own.attach(ram.open())
        _scan(own, block)
        for _ in range(repeats):
            theirs.append(peer.take(ram, BUFFER, channels))
            ours.append(_scan(own, block))
    row = Row(
        what=f"scan of private memory, {_channels(channels)}",
        case=f"{FILLS[fill]}, {PAGES[pages]}",
        peer="process_vm_readv, as many threads",
        ratio=None,
        aim=0.9,
        ours=None,
        theirs=None,
        limit=None,
        limited_by="the kernel's copy; the limit is that and the check of what is in the L2 cache",
    )
    check = check_in_cache(fill) * (SIZE // PAGE)
    return two_rows(row, ours, theirs, Took(check / channels, check))


def sparse(repeats: int, channels: int) -> list[Row]:
    """Memory of which each second page was never touched, against the same without gaps."""
    ours, theirs = [], []
    with (
        PrivateRam(SIZE, "second") as ram,
        PrivateRam(SIZE, "full") as whole,
        Coordinator(channels) as own,
    ):
        gaps, block = own.attach(ram.open()), own.attach(whole.open())
        for each in (gaps, block):
            _scan(own, each)
        for _ in range(repeats):
            theirs.append(_scan(own, block))
            ours.append(_scan(own, gaps))
    row = Row(
        what=f"scan of private memory, {_channels(channels)}",
        case="each second page absent, the others normal from byte 0",
        peer="scan of the same span, all there",
        ratio=None,
        aim=1 / SPARSE_MOST,
        ours=None,
        theirs=None,
        limit=None,
        limited_by="the copy of one page at a time",
    )
    return two_rows(row, ours, theirs)


def _command(ram: PrivateRam) -> float:
    """Seconds of `pagecheck scan` of a process's memory, start to end."""
    command = [pagecheck_command(), "scan", "--range", ram.range, f"pid:{ram.pid}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def untouched(repeats: int) -> Row:
    """64 GiB that nobody has touched: the whole command, beyond that for 16 MiB."""
    beyond, whole = [], []
    with PrivateRam(UNTOUCHED, "absent") as ram, PrivateRam(SMALL, "absent") as small:
        for _ in range(repeats):
            least = _command(small)
            whole.append(_command(ram))
            beyond.append(whole[-1] - least)
    return Row(
        what="pagecheck scan of private memory, beyond that of 16 MiB",
        case="64 GiB that were never touched",
        peer="the most that is wanted",
        ratio=Spread.of([UNTOUCHED_MS / 1e3 / max(each, 1e-3) for each in beyond]),
        aim=1.0,
        ours=statistics.median(beyond) * 1e3,
        theirs=UNTOUCHED_MS,
        limit=None,
        unit="ms",
        detail=f"the whole command {statistics.median(whole) * 1e3:.0f} ms",
        limited_by="bitmaps of 16 million pages: they are made, filled and counted",
    )


def run(repeats: int) -> list[Row]:
    """Everything in this file."""
    counts = sorted({1, min(2, usable_cpus())})
    cases = itertools.product(PAGES, FILLS, counts)
    rows = [row for pages, fill, channels in cases for row in dense(repeats, fill, pages, channels)]
    rows += [row for channels in counts for row in sparse(repeats, channels)]
    return [*rows, untouched(repeats)]
