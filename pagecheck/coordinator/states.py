"""What each channel does at a moment, for those who watch a coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.coordinator.counting import QUEUE_ENDS
from pagecheck.native import _native
from pagecheck.shm.layout import queue_state

if TYPE_CHECKING:
    from pagecheck.coordinator.pool import Pool

# Submitted to; for a while too full; abandoned, and the device may still hold something; abandoned.
QUEUE_STATES: Final = ("up", "full", "draining", "abandoned")


class ChannelState(NamedTuple):
    """One channel; `Coordinator.statistics` says what it works with.

    Attributes:
        state: `idle`, `working`, `resting` after a shortage, or `lost` for good.
        pid: of its worker.
        replaced: workers that died or hung and were replaced.
        queue: the word `queue_state` of the worker that is there now.
    """

    state: str
    pid: int
    replaced: int
    queue: int


def states(pool: Pool) -> list[ChannelState]:
    """Each channel of a pool."""
    return [
        ChannelState(pool.state_of(each), each.pid, each.replaced, each.queue_state)
        for each in pool.channels
    ]


class QueueNow(NamedTuple):
    """A work queue at a moment.

    Attributes:
        state: one of `QUEUE_STATES`.
        why: why it takes nothing; empty where it does.
    """

    state: str
    why: str


def queue_now(word: int) -> QueueNow:
    """The queue of a worker that decides by one; from the word `queue_state`."""
    state, end = queue_state(word)
    if state == _native.QUEUE_UP:
        full = end == _native.QUEUE_FULL
        return QueueNow("full", "others keep it full") if full else QueueNow("up", "")
    why = QUEUE_ENDS.get(end, "it was closed")
    return QueueNow("draining" if state == _native.QUEUE_DRAINING else "abandoned", why)
