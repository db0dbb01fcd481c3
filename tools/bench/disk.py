"""A file on a disk that nobody has in the page cache: the whole command against `cat` and `dd`.

The disk is the one below the checkout. In front of each run the file's pages are dropped from the
page cache; what a hypervisor or a controller keeps of them is not, and helps all alike.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pagecheck.native import _native
from tools.bench.commands import pagecheck_command
from tools.bench.data import BUILD, RamFile
from tools.bench.rows import Row, Spread

SIZE = 4 << 30
PAGE = 4096


class _Took(NamedTuple):
    """Seconds of one command."""

    wall: float
    cpu: float


def _cold(command: list[str], path: Path) -> _Took:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return _Took(time.perf_counter() - start, used.ru_utime + used.ru_stime)


def _check_cpu(ram: RamFile) -> float:
    """CPU seconds of the check itself, of as many bytes, in warm memory."""
    part = 64 << 20
    memory = bytearray(ram.view[:part])
    offsets = np.arange(part // PAGE, dtype=np.uint64) * np.uint64(PAGE)
    words = np.zeros(part // PAGE // 64, np.uint64)
    kernel = _native.kernel_auto()
    start = time.process_time()
    for _ in range(SIZE // part):
        _native.kernel_zero_pages(kernel, memory, PAGE, offsets, words)
    return time.process_time() - start


def run(repeats: int) -> list[Row]:
    """Reads 4 GiB, half of the pages zero, with the kernel's own read-ahead.

    Args:
        repeats: how often each command is run.

    Returns:
        Wall clock against both, CPU time against `cat` and the check together.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with RamFile("half", SIZE, BUILD) as ram:
        fd = os.open(ram.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        commands = {
            "ours": [pagecheck_command(), "scan", str(ram.path)],
            "cat": ["cat", str(ram.path)],
            "dd": ["dd", "bs=1M", "status=none", "of=/dev/null", f"if={ram.path}"],
        }
        took = [
            {name: _cold(each, ram.path) for name, each in commands.items()} for _ in range(repeats)
        ]
        check = _check_cpu(ram)
    rows = [
        _row(
            f"{peer} > /dev/null",
            [each["ours"].wall for each in took],
            [each[peer].wall for each in took],
            0.95,
        )
        for peer in ("cat", "dd")
    ]
    together = [each["cat"].cpu + check for each in took]
    ours = [each["ours"].cpu for each in took]
    return [*rows, _row("CPU time of cat and of the check", ours, together, 1.0)]


def _row(peer: str, ours: list[float], theirs: list[float], aim: float) -> Row:
    cpu = peer.startswith("CPU")
    return Row(
        what="pagecheck scan, cold file on a disk" + (", CPU time" if cpu else ""),
        case="4 GiB, half-half mix",
        peer=peer,
        ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
        aim=aim,
        ours=statistics.median(ours) * 1e3,
        theirs=statistics.median(theirs) * 1e3,
        limit=None,
        unit="ms",
        limited_by="the copy out of the page cache"
        if cpu
        else "the disk, and the start of the command",
    )
