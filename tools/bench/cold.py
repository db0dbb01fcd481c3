"""The first and only look at tmpfs pages: reading against mapping, in several ways."""

import mmap
import os
import time

import numpy as np

from pagecheck import Coordinator
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.native import _native
from tools.bench.data import RamFile
from tools.bench.rows import Row, Spread

SIZE = 1 << 30
PAGE = 4096
MADV_POPULATE_READ = 22  # Linux 5.14


def _scan(ram: RamFile, coordinator: Coordinator, access: str) -> float:
    """Attaching, one scan, detaching: the mapping, its faults and its end are all in it."""
    start = time.perf_counter()
    block = coordinator.attach(ram.path, access=access)  # type: ignore[arg-type]
    coordinator.scan(block)
    coordinator.detach(block)
    return time.perf_counter() - start


def _one_thread(ram: RamFile, kernel: str, step: int) -> float:
    """Maps, populates `step` bytes at a time, checks; without any channel."""
    offsets = np.arange(step // PAGE, dtype=np.uint64) * np.uint64(PAGE)
    words = np.zeros(step // PAGE // 64 + 1, np.uint64)
    start = time.perf_counter()
    fd = os.open(ram.path, os.O_RDONLY)
    view = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
    os.close(fd)
    memory = memoryview(view)
    for at in range(0, SIZE, step):
        view.madvise(MADV_POPULATE_READ, at, step)
        _native.kernel_zero_pages(kernel, memory[at : at + step], PAGE, offsets, words)
    memory.release()
    view.close()
    return time.perf_counter() - start


def _times(ram: RamFile, many: Coordinator, single: Coordinator) -> dict[str, float]:
    kernel = single.kernel
    assert kernel is not None
    return {
        "read": _scan(ram, many, "read"),
        "map": _scan(ram, many, "map"),
        "read, 1 channel": _scan(ram, single, "read"),
        "map, 1 channel": _scan(ram, single, "map"),
        "populate 2 MiB": _one_thread(ram, kernel, 2 << 20),
        "populate all": _one_thread(ram, kernel, SIZE),
    }


def run(repeats: int) -> list[Row]:
    """Reads (what a one-shot scan does) against mapping, and against populating in bulk."""
    rows = []
    for case in ("zero", "random"):
        with (
            RamFile(case, SIZE) as ram,
            Coordinator(usable_cpus()) as many,
            Coordinator(1) as single,
        ):
            times = [_times(ram, many, single) for _ in range(repeats)]
        rows.append(_row(case, "read", "map", times))
        for peer in ("map, 1 channel", "populate 2 MiB", "populate all"):
            rows.append(_row(case, "read, 1 channel", peer, times))
    return rows


def _row(case: str, ours: str, peer: str, times: list[dict[str, float]]) -> Row:
    per_page = 1e9 / (SIZE // PAGE)
    return Row(
        what=f"cold tmpfs pages: {ours}",
        case={"zero": "all zero", "random": "random bytes"}[case],
        peer=peer,
        ratio=Spread.of([each[peer] / each[ours] for each in times]),
        aim=None,
        ours=float(np.median([each[ours] for each in times])) * per_page,
        theirs=float(np.median([each[peer] for each in times])) * per_page,
        limit=None,
        limited_by="the kernel's copy, or its faults",
    )
