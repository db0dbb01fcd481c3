"""A clock that a test moves: deadlines, pauses and stalls pass without anybody waiting for them."""

from __future__ import annotations

import select

import pytest

from pagecheck import clock

_wait_ready = clock.wait_ready


class MovedClock:
    """Stands in for `pagecheck.clock` in this process; C and other processes keep theirs.

    Attributes:
        ns: the time that it tells.
    """

    def __init__(self) -> None:
        self.ns = 10**15

    def now_ns(self) -> int:
        return self.ns

    def now_s(self) -> float:
        return self.now_ns() / 1e9

    def sleep_s(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def wait_ready(self, fd: int, deadline_ns: int, events: int = select.POLLIN) -> int:
        """Does not wait: what is not ready will not be before the deadline."""
        ready = _wait_ready(fd, 0, events)
        if not ready:
            self.ns = max(self.ns, deadline_ns)
        return ready

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("now_ns", "now_s", "sleep_s", "wait_ready"):
            monkeypatch.setattr(clock, name, getattr(self, name))
