"""The whole pool, its rings kept full, against the bare kernel on as many threads."""

import threading
import time
from collections.abc import Callable

import numpy as np

from pagecheck import Coordinator
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.native import _native
from tools.bench.data import RamFile
from tools.bench.rows import Row, Spread

SIZE = 2 << 30
PAGE = 4096


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _bare(ram: RamFile, kernel: str, threads: int) -> Callable[[], None]:
    """The kernel itself, called once per thread for its share of the pages."""
    share = SIZE // PAGE // threads
    offsets = np.arange(SIZE // PAGE, dtype=np.uint64) * np.uint64(PAGE)
    words = [np.zeros(share // 64 + 1, np.uint64) for _ in range(threads)]

    def one(index: int) -> None:
        part = offsets[index * share : (index + 1) * share]
        _native.kernel_zero_pages(kernel, ram.view, PAGE, part, words[index])

    def run() -> None:
        workers = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def _times(case: str, threads: int, repeats: int) -> tuple[tuple[float, ...], ...]:
    """Seconds per pass: bare on 1 and on all threads, the pool likewise, and with small batches."""
    with (
        RamFile(case, SIZE) as ram,
        Coordinator(1) as single,
        Coordinator(threads) as default,
        Coordinator(threads, batch_pages=128) as packets,
    ):
        kernel = default.kernel
        assert kernel is not None
        calls = [_bare(ram, kernel, 1), _bare(ram, kernel, threads)]
        for coordinator in (single, default, packets):
            block = coordinator.attach(ram.path, access="map")
            calls.append(lambda c=coordinator, b=block: c.scan(b))  # type: ignore[misc]
        for call in calls:
            call()  # faults every page in once
        times = [[_seconds(call) for call in calls] for _ in range(repeats)]
    return tuple(zip(*times, strict=True))


def run(repeats: int) -> list[Row]:
    """Scans a mapped block again and again with default and with 128-page batches.

    The pool is compared with the bare kernel on as many threads, and with itself on one channel;
    how much faster the bare kernel becomes with more threads is what the memory has to give.
    """
    rows = []
    threads = usable_cpus()
    for case in ("zero", "half"):
        bare_one, bare, one, default, packets = _times(case, threads, repeats)
        channels = f"pool, {threads} channels"
        peer = "bare kernel, as many threads"
        rows += [
            _row(f"{channels}, default batches", case, peer, 0.90, default, bare, limit=bare),
            _row(f"{channels}, 128-page batches", case, peer, 0.75, packets, bare, limit=bare),
        ]
        if threads > 1:
            wanted = 0.95 * threads
            rows += [
                _row(f"{channels}, default batches", case, "1 channel", wanted, default, one, bare),
                _row(
                    f"bare kernel, {threads} threads", case, "1 thread", None, bare, bare_one, bare
                ),
            ]
    return rows


def _row(
    what: str,
    case: str,
    peer: str,
    aim: float | None,
    ours: tuple[float, ...],
    theirs: tuple[float, ...],
    limit: tuple[float, ...],
) -> Row:
    per_page = 1e9 / (SIZE // PAGE)
    return Row(
        what=what,
        case={"zero": "all zero", "half": "half-half mix"}[case] + ", in order, mapped",
        peer=peer,
        ratio=Spread.of([their / our for our, their in zip(ours, theirs, strict=True)]),
        aim=aim,
        ours=float(np.median(ours)) * per_page,
        theirs=float(np.median(theirs)) * per_page,
        limit=float(np.median(limit)) * per_page,
        limited_by="memory bandwidth",
    )
