"""The one clock, CLOCK_MONOTONIC, and elapsed time that leaves out our own suspensions.

All code reads the time, sleeps and waits for descriptors through this module, as `clock.now_ns()`,
so that a test which replaces its names moves the clock for all.

Danger: a process that was stopped, or whose host was suspended, finds that a deadline has passed in
which nobody could make progress, and blames the peer.
Decision: time is counted from sample to sample, and between two samples never more than two steps
count. A waiter takes one sample per step.

Danger: a signal that comes right before a system call does not end it, and Python raises what the
signal stands for only after it; a wait for a minute would ignore an interrupt for a minute.
Decision: no wait here is one system call for longer than `SLICE_S`, and none elsewhere that may be
long.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

STEP_NS: Final = 50_000_000
SLICE_S: Final = 0.5  # of a wait that a signal may have to end
POLL_MAX_MS: Final = 2**31 - 1  # poll(2) takes no more: 24 days

now_ns: Callable[[], int] = time.monotonic_ns
now_s: Callable[[], float] = time.monotonic


def sleep_s(seconds: float) -> None:
    """Sleeps so long, unless a signal raises."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > SLICE_S:
        time.sleep(SLICE_S)
    time.sleep(max(0.0, left))


def wait_ready(fd: int, deadline_ns: int, events: int = select.POLLIN) -> int:
    """Waits until a descriptor is ready, or the absolute time has passed.

    Args:
        deadline_ns: 0: does not wait.
        events: of poll(2); a pidfd whose process has ended has POLLIN.

    Returns:
        What it is ready for, and POLLHUP or POLLERR; 0: the time has passed.
    """
    poll = select.poll()
    poll.register(fd, events)
    slice_ms = int(SLICE_S * 1000)
    while True:
        left_ms = max(0, -((now_ns() - deadline_ns) // 1_000_000))
        if ready := poll.poll(min(left_ms, slice_ms)):
            return ready[0][1]
        if left_ms <= slice_ms:
            return 0


class Elapsed:
    """Elapsed time, less that in which this process or its host was suspended."""

    def __init__(self, step_ns: int = STEP_NS) -> None:
        """Begins to count.

        Args:
            step_ns: how often it will be sampled.
        """
        self._most_ns = 2 * step_ns
        self._sampled_ns = now_ns()
        self._counted_ns = 0

    def sample(self) -> int:
        """Nanoseconds that count so far."""
        sampled_ns = now_ns()
        self._counted_ns += min(sampled_ns - self._sampled_ns, self._most_ns)
        self._sampled_ns = sampled_ns
        return self._counted_ns

    def restart(self) -> None:
        """Counts from 0 again."""
        self._sampled_ns = now_ns()
        self._counted_ns = 0


class Allowance:
    """A time limit for a wait, on `Elapsed`."""

    def __init__(self, ns: int, step_ns: int = STEP_NS) -> None:
        """Begins to count.

        Args:
            ns: nanoseconds that count; 0 or less: do not wait.
            step_ns: how often it will be sampled.
        """
        self._ns = ns
        self._step_ns = step_ns
        self._elapsed = Elapsed(step_ns)

    def is_used_up(self) -> bool:
        """Whether the limit has passed."""
        return self._elapsed.sample() >= self._ns

    def end_ns(self) -> int:
        """When it ends, if nothing comes in between: an absolute CLOCK_MONOTONIC time, a past one
        where nothing is left."""
        return now_ns() + self._ns - self._elapsed.sample()

    def step_end_ns(self) -> int:
        """Until when to wait before the next sample: an absolute CLOCK_MONOTONIC time, a past one
        where nothing is left."""
        left_ns = self._ns - self._elapsed.sample()
        return now_ns() + min(left_ns, self._step_ns)
