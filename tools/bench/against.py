"""This build against another one: a checkout with a virtual environment of its own.

Both run in turn, so that the machine's moods meet both. The ratios are the other's time over ours:
1 is the same, more than 1 is faster than it was.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tools.bench.commands import command_seconds
from tools.bench.data import RamFile
from tools.bench.rows import Row, Spread

SIZE = 1 << 30
_CHECKS = """
import statistics, sys, time
import numpy as np
from pagecheck import Coordinator

offsets = np.arange(128, dtype=np.uint64) * np.uint64(4096)
with Coordinator(1) as coordinator:
    block = coordinator.attach(sys.argv[1])
    times = []
    for _ in range(2000):
        begin = time.perf_counter_ns()
        coordinator.check(block, offsets)
        times.append(time.perf_counter_ns() - begin)
print(statistics.median(times) / 1e9)
"""


def run(repeats: int, other: Path) -> list[Row]:
    """Measures both builds.

    Args:
        repeats: how often each is run.
        other: root of the other checkout; its `.venv` has been set up.

    Returns:
        Dense scans by the whole command, and checks of 128 pages by `Coordinator.check`.
    """
    pythons = (sys.executable, str(other / ".venv/bin/python"))
    rows = []
    for case in ("zero", "random"):
        with RamFile(case, SIZE) as ram:
            scan = ["-P", "-m", "pagecheck", "scan", "--channels", "2", str(ram.path)]
            ours, theirs = _in_turn(pythons, scan, repeats, command_seconds)
        what = f"dense 1 GiB tmpfs file, {'all zero' if case == 'zero' else 'random bytes'}"
        rows.append(_row("pagecheck scan, the whole command", what, other, ours, theirs, "ms"))
    with RamFile("zero", 64 << 20) as ram:
        checks = ["-P", "-c", _CHECKS, str(ram.path)]
        ours, theirs = _in_turn(pythons, checks, repeats, _printed)
    what = "128 zero pages, the median of 2 000 in a process"
    rows.append(_row("Coordinator.check", what, other, ours, theirs, "us"))
    return rows


def _in_turn(
    pythons: tuple[str, str],
    arguments: list[str],
    repeats: int,
    measure: Callable[[list[str]], float],
) -> tuple[list[float], list[float]]:
    taken: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        for which in (0, 1) if round_ % 2 else (1, 0):
            seconds = measure([pythons[which], *arguments])
            if round_:  # the first one warms up
                taken[which].append(seconds)
    return taken


def _printed(command: list[str]) -> float:
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _row(
    what: str, case: str, other: Path, ours: list[float], theirs: list[float], unit: str
) -> Row:
    scale = {"ms": 1e3, "us": 1e6}[unit]
    return Row(
        what=what,
        case=case,
        peer=f"the build in {other.name}",
        ratio=Spread.of([b / a for a, b in zip(ours, theirs, strict=True)]),
        aim=None,
        ours=statistics.median(ours) * scale,
        theirs=statistics.median(theirs) * scale,
        limit=None,
        unit=unit,
    )
