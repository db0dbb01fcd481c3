"""How long a worker has stood still, and how long its replies are waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.clock import STEP_NS, Allowance, Elapsed
from pagecheck.coordinator.process import WorkerDied

if TYPE_CHECKING:
    from pagecheck.coordinator.process import WorkerProcess
    from pagecheck.native import Feed

SLICE_NS: Final = STEP_NS  # between two looks at a worker while a batch is out
START_NS: Final = 30_000_000_000
REPLY_NS: Final = 10_000_000_000  # for a worker that works meanwhile; more with a longer stall

IsOver = Callable[[], bool]


class WorkerSilent(WorkerDied):
    """It owes a reply for longer than it may."""


class Watch:
    """How long a word that a worker raises has stood still, counting only time that we watched: a
    stopped and continued coordinator must not take its own pause for the worker's."""

    def __init__(self, read: Callable[[], int], step_ns: int = SLICE_NS) -> None:
        """Begins to watch.

        Args:
            read: the word.
            step_ns: how often it will be looked at.
        """
        self._read = read
        self._seen = read()
        self._still = Elapsed(step_ns)

    def still_ns(self) -> int:
        """Nanoseconds without a change, up to this look."""
        now = self._read()
        if now != self._seen:
            self._seen = now
            self._still.restart()
        return self._still.look()


def start_limit() -> IsOver:
    """How long a worker may take to be ready."""
    return Allowance(START_NS).is_used_up


def reply_limit(feed: Feed, stall_ns: int) -> IsOver:
    """How long a worker that was ready may owe a reply: it is hung when it stands still for
    `stall_ns`, and a batch that takes longer than REPLY_NS is no excuse either."""
    watch = Watch(feed.progress)
    most = Allowance(max(stall_ns, REPLY_NS))
    return lambda: watch.still_ns() >= stall_ns or most.is_used_up()


def await_reply(
    process: WorkerProcess, kind: str, is_over: IsOver, deadline_ns: int
) -> dict[str, Any] | None:
    """Waits for what a worker says next, and looks at the clock once per step.

    Args:
        is_over: whether it may be silent no longer.
        deadline_ns: absolute; the reply can be waited for again afterwards.

    Returns:
        As `WorkerProcess.await_reply`.

    Raises:
        WorkerDied: it ended; `WorkerSilent`: it is silent for longer than it may be.
        PagecheckError: what it says is an error.
    """
    while True:
        until_ns = min(deadline_ns, clock.now_ns() + SLICE_NS)
        reply = process.await_reply(kind, until_ns)
        if reply is not None:
            return reply
        if is_over():
            raise WorkerSilent(f"worker {process.pid} did not say {kind!r} in time")
        if clock.now_ns() >= deadline_ns:
            return None
