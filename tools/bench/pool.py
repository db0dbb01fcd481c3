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


def run(repeats: int) -> list[Row]:
    """Scans a mapped block again and again with default and with 128-page batches."""
    rows = []
    threads = usable_cpus()
    for case in ("zero", "half"):
        with (
            RamFile(case, SIZE) as ram,
            Coordinator(threads) as default,
            Coordinator(threads, batch_pages=128) as packets,
        ):
            kernel = default.kernel
            assert kernel is not None
            calls = [_bare(ram, kernel, threads)]
            for coordinator in (default, packets):
                block = coordinator.attach(ram.path, access="map")
                calls.append(lambda c=coordinator, b=block: c.scan(b))  # type: ignore[misc]
            for call in calls:
                call()  # faults every page in once
            times = [[_seconds(call) for call in calls] for _ in range(repeats)]
        bare, *pools = zip(*times, strict=True)
        names = (("default batches", 0.90), ("128-page batches", 0.75))
        for (name, aim), pool in zip(names, pools, strict=True):
            rows.append(_row(f"pool, {threads} channels, {name}", case, aim, bare, pool))
    return rows


def _row(what: str, case: str, aim: float, bare: tuple[float, ...], pool: tuple[float, ...]) -> Row:
    per_page = 1e9 / (SIZE // PAGE)
    theirs = float(np.median(bare)) * per_page
    return Row(
        what=what,
        case={"zero": "all zero", "half": "half-half mix"}[case] + ", in order, mapped",
        peer="bare kernel, as many threads",
        ratio=Spread.of([b / p for b, p in zip(bare, pool, strict=True)]),
        aim=aim,
        ours=float(np.median(pool)) * per_page,
        theirs=theirs,
        limit=theirs,
    )
