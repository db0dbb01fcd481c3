"""How long a process of ours has made no progress, and how long its answers are waited for."""

from __future__ import annotations

from pagecheck import clock
from pagecheck.child.process import ChildSilent
from pagecheck.clock import STEP_NS, Allowance, Elapsed

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    IsOver = Callable[[], bool]
    _Reply = TypeVar("_Reply")

SLICE_NS: Final = STEP_NS  # between two looks at a process while something is asked of it
START_NS: Final = 30_000_000_000
REPLY_NS: Final = 10_000_000_000  # for one that works meanwhile; more with a longer stall


class Watch:
    """How long a word that a process raises has not changed, counting only time that we watched: a
    stopped and continued program must not take its own pause for the other's."""

    def __init__(self, read: Callable[[], int], step_ns: int = SLICE_NS) -> None:
        """Begins to watch.

        Args:
            read: the word.
            step_ns: how often it will be looked at.
        """
        self._read = read
        self._seen = read()
        self._unchanged = Elapsed(step_ns)

    def unchanged_ns(self) -> int:
        """Nanoseconds without a change, up to this look."""
        now = self._read()
        if now != self._seen:
            self._seen = now
            self._unchanged.restart()
        return self._unchanged.sample()


def start_limit() -> IsOver:
    """How long a process may take to be ready."""
    return Allowance(START_NS).is_used_up


def reply_limit(progress: Callable[[], int], stall_ns: int) -> IsOver:
    """How long a process that was ready may owe a reply: it hangs when it makes no progress for
    `stall_ns`, or, progress or not, takes longer than REPLY_NS.

    Args:
        progress: a word that it raises while it works.
    """
    watch = Watch(progress)
    most = Allowance(max(stall_ns, REPLY_NS))
    return lambda: watch.unchanged_ns() >= stall_ns or most.is_used_up()


def await_reply(
    receive: Callable[[int], _Reply | None], is_over: IsOver, deadline_ns: int, silent: str
) -> _Reply | None:
    """Waits for what a process says next, and looks at the clock once per step.

    Args:
        receive: waits for it until an absolute time; None: nothing came.
        is_over: whether it may be silent no longer.
        deadline_ns: absolute; the reply can be waited for again afterwards.
        silent: the message of `ChildSilent`.

    Returns:
        The reply; None when the deadline passed.

    Raises:
        ChildSilent: it is silent for longer than it may be.
        Exception: what `receive` raises.
    """
    while True:
        until_ns = min(deadline_ns, clock.now_ns() + SLICE_NS)
        reply = receive(until_ns)
        if reply is not None:
            return reply
        if is_over():
            raise ChildSilent(silent)
        if clock.now_ns() >= deadline_ns:
            return None
