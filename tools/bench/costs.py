"""What the single steps cost here: system calls around a batch, and the parts of a start-up."""

import ctypes
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pagecheck import Coordinator
from pagecheck.native import _native
from tools.bench.data import ROOT, RamFile
from tools.bench.rows import Row

SIZE = 256 << 20
PAGE = 4096
PAGES = SIZE // PAGE

_BARE = ["-P", "-S", "-E", "-s", "-c"]
_HOME = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "


def _median(repeats: int, call: Callable[[], object]) -> float:
    """Seconds of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _row(what: str, case: str, value: float, unit: str) -> Row:
    return Row(what, case, "-", None, None, value, None, None, unit)


def _lookups(fd: int, repeats: int) -> list[Row]:
    """Each over all pages of a dense tmpfs file."""

    def fstat() -> None:
        for _ in range(1000):
            os.fstat(fd)

    def seek_data() -> None:
        for at in range(0, SIZE, 16 * PAGE):
            os.lseek(fd, at, os.SEEK_DATA)

    fresh = _mincore(fd, touched=False)
    touched = _mincore(fd, touched=True)
    return [
        _row("fstat", "Python's call included", _median(repeats, fstat) * 1e6, "ns"),
        _row("SEEK_DATA at data", "likewise", _median(repeats, seek_data) * 16e9 / PAGES, "ns"),
        _row(
            "SEEK_HOLE over data",
            "per page walked",
            _median(repeats, lambda: os.lseek(fd, 0, os.SEEK_HOLE)) * 1e9 / PAGES,
            "ns/page",
        ),
        _row("mincore, 512 pages a call", "pages never touched", fresh, "ns/page"),
        _row("mincore, 512 pages a call", "pages touched before", touched, "ns/page"),
    ]


def _mincore(fd: int, *, touched: bool) -> float:
    """Nanoseconds per page through a new mapping."""
    libc = ctypes.CDLL(None, use_errno=True)
    view = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
    memory = np.frombuffer(view, np.uint8)
    if touched:
        memory[::PAGE].sum()
    address, step = memory.ctypes.data, 512 * PAGE
    resident = (ctypes.c_ubyte * 512)()
    start = time.perf_counter()
    for at in range(0, SIZE, step):
        if libc.mincore(ctypes.c_void_p(address + at), ctypes.c_size_t(step), resident):
            raise OSError(ctypes.get_errno(), "mincore")
    return (time.perf_counter() - start) * 1e9 / PAGES


def _buffers(fd: int, kernel: str, repeats: int) -> list[Row]:
    """Reading and checking zero pages by the size of the buffer."""
    rows = []
    for size in (64 << 10, 256 << 10, 512 << 10, 2 << 20):
        buffer = mmap.mmap(-1, size)
        offsets = np.arange(size // PAGE, dtype=np.uint64) * np.uint64(PAGE)
        words = np.zeros(size // PAGE // 64 + 1, np.uint64)

        def read(
            size: int = size,
            buffer: mmap.mmap = buffer,
            offsets: np.ndarray[tuple[int], np.dtype[np.uint64]] = offsets,
            words: np.ndarray[tuple[int], np.dtype[np.uint64]] = words,
        ) -> None:
            for at in range(0, SIZE, size):
                os.preadv(fd, [buffer], at)
                _native.kernel_zero_pages(kernel, buffer, PAGE, offsets, words)

        value = _median(repeats, read) * 1e9 / PAGES
        rows.append(_row("pread and check", f"buffer of {size >> 10} KiB", value, "ns/page"))
        buffer.close()
    return rows


def _coordinator(path: Path, repeats: int) -> list[Row]:
    """CPU time of the coordinator's process in a scan, for each batch of 2 MiB."""
    rows = []
    with Coordinator(1) as coordinator:
        for access in ("map", "read"):
            block = coordinator.attach(path, access=access)
            coordinator.scan(block)
            used = []
            for _ in range(repeats):
                start = time.process_time()
                coordinator.scan(block)
                used.append(time.process_time() - start)
            coordinator.detach(block)
            each = statistics.median(used) * 1e6 / (SIZE >> 21)
            rows.append(_row("coordinator's CPU", f"a batch of 2 MiB, access {access}", each, "us"))
    return rows


def _starts(repeats: int) -> list[Row]:
    """Whole processes; what they import is the difference to the bare interpreter."""
    prove = "from pagecheck.hw.cpu import choose_kernel; choose_kernel(None)"
    leave = "; import os; os._exit(0)"
    programs = {
        "bare interpreter": [*_BARE, "pass" + leave],
        "worker: its imports": [*_BARE, _HOME + "import pagecheck.workers.program" + leave],
        "worker: and the self-check": [
            *_BARE,
            _HOME + "import pagecheck.workers.program; " + prove + leave,
        ],
        "command: click": ["-c", "import click" + leave],
        "command: and our modules": [
            "-c",
            "import pagecheck.cli, pagecheck.coordinator, pagecheck.coordinator.scan" + leave,
        ],
    }
    return [
        _row(
            "start-up",
            name,
            _median(repeats, lambda a=arguments: subprocess.run([sys.executable, *a], check=True))  # type: ignore[misc]
            * 1e3,
            "ms",
        )
        for name, arguments in programs.items()
    ]


def run(repeats: int) -> list[Row]:
    """Everything in this file; nothing is compared, so there are no ratios."""
    kernel = _native.kernel_auto()
    with RamFile("zero", SIZE) as ram:
        fd = os.open(ram.path, os.O_RDONLY)
        try:
            return [
                *_lookups(fd, repeats),
                *_buffers(fd, kernel, repeats),
                *_coordinator(ram.path, repeats),
                *_starts(repeats),
            ]
        finally:
            os.close(fd)
