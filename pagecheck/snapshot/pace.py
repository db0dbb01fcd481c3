"""A limit on how fast a snapshot's files are read or written."""

from __future__ import annotations

import threading

from pagecheck import clock
from pagecheck.plan import require_rate

STEP_S = 0.05


class Pace:
    """Bytes per second for all threads of one piece of work together."""

    def __init__(self, max_rate: int | None) -> None:
        """Begins now.

        Args:
            max_rate: bytes per second; None: as fast as it goes.

        Raises:
            UsageError: it is not more than 0.
        """
        require_rate(max_rate)
        self._rate = max_rate
        self._free_ns = clock.now_ns()
        self._lock = threading.Lock()

    def take(self, size: int) -> int:
        """Reserves the time of that many bytes.

        Returns:
            When they may be read: an absolute CLOCK_MONOTONIC time, a past one at no limit.
        """
        if self._rate is None:
            return 0
        with self._lock:
            at = max(self._free_ns, clock.now_ns())
            self._free_ns = at + size * 1_000_000_000 // self._rate
            return at


def wait_until(at_ns: int) -> bool:
    """Sleeps at most a twentieth of a second towards a time.

    Returns:
        Whether it has come.
    """
    left = (at_ns - clock.now_ns()) / 1e9
    if left > 0:
        clock.sleep_s(min(left, STEP_S))
    return left <= STEP_S
