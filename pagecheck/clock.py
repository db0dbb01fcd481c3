"""The one clock, CLOCK_MONOTONIC, and time that counts: what passed while we ran and looked.

Whoever asks for the time, sleeps, or waits for a descriptor does so as `clock.now_ns()`, so that a
test which replaces the names of this module moves the clock for all.

Danger: a process that was stopped, or whose host stood still, finds a deadline passed in which
nobody could do anything, and takes it for the other side's failure.
Decision: time is counted from look to look, and of what lies between two looks never more than two
steps. Whoever waits looks once per step.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

STEP_NS: Final = 50_000_000
POLL_MAX_MS: Final = 2**31 - 1  # poll(2) takes no more: 24 days

now_ns: Callable[[], int] = time.monotonic_ns
now_s: Callable[[], float] = time.monotonic
sleep_s: Callable[[float], None] = time.sleep


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
    left_ms = max(0, -((now_ns() - deadline_ns) // 1_000_000))
    ready = poll.poll(min(left_ms, POLL_MAX_MS))
    return ready[0][1] if ready else 0


class Elapsed:
    """A clock that stands still while we do."""

    def __init__(self, step_ns: int = STEP_NS) -> None:
        """Begins to count.

        Args:
            step_ns: how often it will be looked at.
        """
        self._most_ns = 2 * step_ns
        self._looked_ns = now_ns()
        self._counted_ns = 0

    def look(self) -> int:
        """Nanoseconds that count so far."""
        looked_ns = now_ns()
        self._counted_ns += min(looked_ns - self._looked_ns, self._most_ns)
        self._looked_ns = looked_ns
        return self._counted_ns

    def restart(self) -> None:
        """Counts from 0 again."""
        self._looked_ns = now_ns()
        self._counted_ns = 0


class Allowance:
    """How long something may be waited for."""

    def __init__(self, ns: int, step_ns: int = STEP_NS) -> None:
        """Begins to count.

        Args:
            ns: nanoseconds that count; 0 or less: only a look.
            step_ns: how often it will be looked at.
        """
        self._ns = ns
        self._step_ns = step_ns
        self._elapsed = Elapsed(step_ns)

    def is_used_up(self) -> bool:
        """Whether there is nothing left of it."""
        return self._elapsed.look() >= self._ns

    def end_ns(self) -> int:
        """When it ends, if nothing comes in between: an absolute CLOCK_MONOTONIC time, a past one
        where nothing is left."""
        return now_ns() + self._ns - self._elapsed.look()

    def step_end_ns(self) -> int:
        """Until when to wait before the next look: an absolute CLOCK_MONOTONIC time, a past one
        where nothing is left."""
        left_ns = self._ns - self._elapsed.look()
        return now_ns() + min(left_ns, self._step_ns)
