"""Private memory of another process: how fast it is decided, against the bare copy of it.

The process is a C program (private_ram.c), the bare copy another one (vm_readv.c). The scans are by
a Coordinator that stays, so that no start of a process is in a figure, unless a row says so.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

import numpy as np

from pagecheck import Block, Coordinator
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.native import _native
from tools.bench.others_ram import BareCopy, PrivateRam
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


def _scan(coordinator: Coordinator, block: Block) -> float:
    """Seconds of one scan.

    Raises:
        RuntimeError: not every page was decided, so that its time says nothing.
    """
    start = time.perf_counter()
    report = coordinator.scan(block)
    took = time.perf_counter() - start
    if report.total.undecided:
        raise RuntimeError(f"{report.total.undecided} pages are undecided: {report.notes}")
    return took


def _ratio(ours: list[float], theirs: list[float]) -> Spread:
    return Spread.of([their / our for our, their in zip(ours, theirs, strict=True)])


def _per_page(seconds: list[float], size: int) -> float:
    return statistics.median(seconds) * 1e9 / (size // PAGE)


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


def dense(repeats: int, fill: str, pages: str, channels: int, size: int = SIZE) -> Row:
    """Memory that is all there, against the bare copy of it into buffers of the same size.

    Args:
        repeats: of both, in turn.
        fill: a key of `FILLS`.
        pages: a key of `PAGES`.
        channels: of ours, and threads of the peer.
        size: bytes.
    """
    ours, theirs = [], []
    with PrivateRam(size, fill, pages) as ram, Coordinator(channels) as own, BareCopy() as peer:
        block = own.attach(ram.open())
        _scan(own, block)
        for _ in range(repeats):
            theirs.append(peer.seconds(ram, BUFFER, channels))
            ours.append(_scan(own, block))
    least = statistics.median(theirs) + check_in_cache(fill) * (size // PAGE) / channels
    return Row(
        what=f"scan of private memory, {_channels(channels)}",
        case=f"{FILLS[fill]}, {PAGES[pages]}",
        peer="process_vm_readv, as many threads",
        ratio=_ratio(ours, theirs),
        aim=0.9,
        ours=_per_page(ours, size),
        theirs=_per_page(theirs, size),
        limit=_per_page([least], size),
        detail=f"{size / statistics.median(ours) / 1e9:.1f} GB/s",
        limited_by="the kernel's copy; the limit is that and the check of what is in the L2 cache",
    )


def sparse(repeats: int, channels: int) -> Row:
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
    return Row(
        what=f"scan of private memory, {_channels(channels)}",
        case="each second page absent, the others normal from byte 0",
        peer="scan of the same span, all there",
        ratio=_ratio(ours, theirs),
        aim=1 / SPARSE_MOST,
        ours=_per_page(ours, SIZE),
        theirs=_per_page(theirs, SIZE),
        limit=None,
        limited_by="a look at each page table entry, and one remote range for each page copied",
    )


def untouched(repeats: int) -> Row:
    """64 GiB that nobody has touched, beyond the same scan of 16 MiB, by one Coordinator."""
    beyond = []
    with (
        PrivateRam(UNTOUCHED, "absent") as ram,
        PrivateRam(SMALL, "absent") as small,
        Coordinator() as own,
    ):
        block, least = own.attach(ram.open()), own.attach(small.open())
        for each in (block, least):
            _scan(own, each)
        for _ in range(repeats):
            beyond.append(_scan(own, block) - _scan(own, least))
    return Row(
        what="scan of private memory, beyond that of 16 MiB",
        case="64 GiB that were never touched",
        peer="the most that is wanted",
        ratio=Spread.of([UNTOUCHED_MS / 1e3 / max(each, 1e-3) for each in beyond]),
        aim=1.0,
        ours=statistics.median(beyond) * 1e3,
        theirs=UNTOUCHED_MS,
        limit=None,
        unit="ms",
        detail="by a Coordinator that stays",
        limited_by="bitmaps of 16 million pages: they are made, filled and counted",
    )


def run(repeats: int) -> list[Row]:
    """Everything in this file."""
    counts = sorted({1, min(2, usable_cpus())})
    rows = [
        dense(repeats, fill, pages, channels)
        for pages in PAGES
        for fill in FILLS
        for channels in counts
    ]
    rows += [sparse(repeats, channels) for channels in counts]
    rows.append(untouched(repeats))
    return rows
