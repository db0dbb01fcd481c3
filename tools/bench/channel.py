"""One 128-page batch through an idle channel and back, against a bare semaphore ping-pong."""

import statistics
import subprocess
import time
from collections.abc import Callable

import numpy as np

from pagecheck import Coordinator
from pagecheck.native import _native
from tools.bench.data import RamFile, compiled
from tools.bench.rows import Row, Spread

PAGES = 128
PACE_S = 200e-6
ROUNDS = 200


class _PingPong:
    """The C program, spoken to over its pipes."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [compiled("pingpong")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rounds(self) -> list[float]:
        """Round-trip times in µs."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{ROUNDS} {int(PACE_S * 1e9)}\n")
        self._program.stdin.flush()
        return [int(ns) / 1e3 for ns in self._program.stdout.readline().split()]

    def close(self) -> None:
        """Ends it."""
        self._program.communicate()


def _timed(call: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        time.sleep(PACE_S)
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    return times


def run(repeats: int) -> list[Row]:
    """Measures the raw channel (two calls of the C helper) and `Coordinator.check`.

    The aim is 1.3 x the ping-pong + 15 µs above the check itself, so the ratio is that allowance
    over what the channel took above the check.
    """
    offsets = np.arange(PAGES, dtype=np.uint64) * np.uint64(4096)
    words = np.zeros(PAGES // 64, np.uint64)
    arrays = (np.zeros(PAGES, np.bool_), np.zeros(PAGES, np.bool_), np.empty(PAGES, np.uint64))
    figures: dict[str, list[float]] = {"ping": [], "check": [], "raw": [], "api": []}
    with RamFile("zero", 64 << 20) as ram, Coordinator(1) as coordinator:
        block = coordinator.attach(ram.path)
        kernel = coordinator.kernel
        assert kernel is not None
        assert coordinator._pool is not None
        feed = coordinator._pool.channels[0].feed

        def bare() -> None:
            _native.kernel_zero_pages(kernel, ram.view, 4096, offsets, words)

        def raw() -> None:
            feed.submit_check(block.target, offsets)
            feed.finish_check(block.target, *arrays, 60.0)

        def api() -> None:
            coordinator.check(block, offsets)

        ping = _PingPong()
        try:
            bare()
            api()
            for _ in range(repeats):
                figures["ping"].append(statistics.median(ping.rounds()))
                figures["check"].append(statistics.median(_timed(bare)))
                figures["raw"].append(statistics.median(_timed(raw)))
                figures["api"].append(statistics.median(_timed(api)))
        finally:
            ping.close()
    return [
        _row("a batch through an idle channel", "raw", figures),
        _row("the same by Coordinator.check", "api", figures),
    ]


def _row(what: str, name: str, figures: dict[str, list[float]]) -> Row:
    allowed = [1.3 * ping + 15 for ping in figures["ping"]]
    above = [all_ - check for all_, check in zip(figures[name], figures["check"], strict=True)]
    ratios = [may / max(took, 0.1) for may, took in zip(allowed, above, strict=True)]
    check = statistics.median(figures["check"])
    return Row(
        what=what,
        case=f"{PAGES} zero pages, {PACE_S * 1e6:.0f} us apart",
        detail=f"check itself {check:.1f} us",
        peer="1.3 x ping-pong + 15 us",
        ratio=Spread.of(ratios),
        aim=1.0,
        ours=statistics.median(above),
        theirs=statistics.median(allowed),
        limit=statistics.median(figures["ping"]),
        unit="us",
        limited_by="two wake-ups; Python code and data that are not in the caches",
    )
