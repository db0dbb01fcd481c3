"""Whole commands: `pagecheck scan` as a user runs it."""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from pagecheck.coordinator.settings import usable_cpus
from tools.bench.data import RamFile
from tools.bench.rows import Row, Spread

SIZE = 1 << 30
READ_BYTES = 512 << 10  # as workers do
TIB = 1 << 40


def pagecheck_command() -> str:
    """The command of this environment."""
    return str(Path(sys.executable).parent / "pagecheck")


def command_seconds(command: list[str]) -> float:
    """How long a command takes, its start included."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _copied(path: Path) -> float:
    """Seconds in which as many threads as there are CPUs read a file and do nothing else."""
    threads = usable_cpus()
    share = -(-SIZE // threads)

    def read(first: int) -> None:
        buffer = bytearray(READ_BYTES)
        for at in range(first * share, min(SIZE, (first + 1) * share), READ_BYTES):
            os.preadv(fd, [buffer], at)

    fd = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(read, range(threads)))
            return time.perf_counter() - start
    finally:
        os.close(fd)


def against_fallocate(repeats: int) -> list[Row]:
    """A dense 1 GiB tmpfs file, against `fallocate --dig-holes` on a fresh copy of it."""
    rows = []
    for case, aim in (("zero", 3.3), ("random", 1.2)):
        ours, theirs, copied = [], [], []
        with RamFile(case, SIZE) as ram:
            copy = ram.path.with_suffix(".copy")
            try:
                for _ in range(repeats):
                    shutil.copyfile(ram.path, copy)
                    ours.append(command_seconds([pagecheck_command(), "scan", str(ram.path)]))
                    theirs.append(command_seconds(["fallocate", "--dig-holes", str(copy)]))
                    copied.append(_copied(ram.path))
            finally:
                copy.unlink(missing_ok=True)
        rows.append(
            Row.of_seconds(
                ours,
                theirs,
                copied,
                what="pagecheck scan, the whole command",
                case=f"dense 1 GiB tmpfs file, {'all zero' if case == 'zero' else 'random bytes'}",
                peer="fallocate --dig-holes",
                aim=aim,
                limited_by="reading tmpfs pages (the limit reads and does nothing else), the start",
            )
        )
    return rows


def start_up(repeats: int) -> list[Row]:
    """From the start of the command to the first batch, 2 channels."""
    seconds, whole = [], []
    with RamFile("zero", 64 << 20) as ram:
        command = [pagecheck_command(), "scan", "--channels", "2", "--json", str(ram.path)]
        for _ in range(repeats):
            start = time.perf_counter()
            out = subprocess.run(command, check=True, capture_output=True).stdout
            whole.append(time.perf_counter() - start)
            report = json.loads(out)
            # All of the command but the scan itself: interpreter, imports, workers, the end.
            seconds.append(whole[-1] - (report["seconds"] - report["startup_seconds"]))
    return [_bound("start-up and end of pagecheck scan, 2 channels", "", 250.0, seconds, "ms")]


def sparse(repeats: int) -> list[Row]:
    """A 1 TiB sparse file with 64 MiB of data in 1 000 extents: time, memory, allocation."""
    path = Path(f"/dev/shm/pagecheck-bench-{os.getpid()}-tib.ram")
    rng = random.Random(1)
    seconds, pss = [], []
    try:
        with path.open("wb") as file:
            file.truncate(TIB)
            for _ in range(1000):
                file.seek(rng.randrange(TIB // 4096 - 16) * 4096)
                file.write(rng.randbytes(65536))
        before = path.stat().st_blocks
        for _ in range(repeats):
            seconds.append(command_seconds([pagecheck_command(), "scan", str(path)]))
        pss = [_peak_pss([pagecheck_command(), "scan", str(path)]) for _ in range(3)]
        grown = path.stat().st_blocks - before
    finally:
        path.unlink(missing_ok=True)
    case = "1 TiB, 64 MiB of data in 1 000 extents"
    detail = f"{grown * 512} bytes allocated by it"
    bitmaps = 3 * TIB / 4096 / 8
    return [
        _bound("pagecheck scan, the whole command", case, 1000.0, seconds, "ms", detail=detail),
        _bound("PSS of all processes, bitmaps left out", case, 150.0, pss, "MiB", bitmaps, detail),
    ]


def _peak_pss(command: list[str]) -> float:
    """The largest sum of PSS over the command and its workers that sampling saw, in bytes."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            total = 0
            try:
                main = psutil.Process(process.pid)
                for each in (main, *main.children(recursive=True)):
                    total += each.memory_full_info().pss
            except psutil.Error:
                continue
            peak = max(peak, total)
    return float(peak)


def _bound(
    what: str,
    case: str,
    most: float,
    values: list[float],
    unit: str,
    less: float = 0.0,
    detail: str = "",
) -> Row:
    scale = 1e3 if unit == "ms" else 1 / (1 << 20)
    scaled = [(value - less) * scale for value in values]
    return Row(
        what=what,
        case=case,
        peer="the most that is wanted",
        ratio=Spread.of([most / max(value, 0.1) for value in scaled]),
        aim=1.0,
        ours=statistics.median(scaled),
        theirs=most,
        limit=None,
        unit=unit,
        detail=detail,
        limited_by="the start of two Pythons" if unit == "ms" else "two Pythons and their buffers",
    )


def run(repeats: int) -> list[Row]:
    """Everything in this file."""
    return [*against_fallocate(repeats), *start_up(repeats), *sparse(repeats)]
