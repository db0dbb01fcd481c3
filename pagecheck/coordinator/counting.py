"""What the workers counted during a scan, and what a user should know of their work queues."""

from __future__ import annotations

from collections.abc import Sequence

from pagecheck.native import _native
from pagecheck.report.statistics import ChannelReport, Failure, Statistics
from pagecheck.shm.layout import queue_state

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.coordinator.pool import Pool

QUEUE_ENDS: Final = {
    _native.QUEUE_LOST: "a record did not come",
    _native.QUEUE_LATE: "its records came too late: others keep it busy",
    _native.QUEUE_DISABLED: "it was disabled",
    _native.QUEUE_REFUSED: "the kernel refused a submission",
    _native.QUEUE_BROKEN: "only errors came back",
}


def look(pool: Pool) -> list[ChannelReport]:
    """What each channel works with and has counted since it was started."""
    return [
        ChannelReport(
            channel=channel.index,
            engine=channel.picked.get("engine", "cpu"),
            queue=channel.picked.get("queue"),
            submit=channel.picked.get("submit"),
            why=channel.picked.get("why", ""),
            words=tuple(channel.statistics()),
            failure=Failure.of(channel.failure()),
        )
        for channel in pool.channels
    ]


def since(before: list[ChannelReport], after: list[ChannelReport]) -> tuple[ChannelReport, ...]:
    """What was counted between two looks."""
    return tuple(
        new._replace(words=tuple(b - a for a, b in zip(old.words, new.words, strict=True)))
        for old, new in zip(before, after, strict=True)
    )


def summed(scans: Sequence[tuple[ChannelReport, ...]]) -> tuple[ChannelReport, ...]:
    """What each channel counted over several scans; the last one tells what it works with."""
    return tuple(
        same[-1]._replace(words=tuple(map(sum, zip(*(one.words for one in same), strict=True))))
        for same in zip(*scans, strict=True)
    )


def queue_notes(pool: Pool, workers: tuple[ChannelReport, ...]) -> list[str]:
    """What a user should know of the work queues after a scan."""
    notes: list[str] = []
    for channel, worker in zip(pool.channels, workers, strict=True):
        if worker.engine != "dsa":
            continue
        counted = Statistics.of(worker.words)
        at = f"channel {worker.channel}: {worker.queue}"
        if counted.timeouts:
            notes.append(
                f"{at} did not answer {counted.timeouts} submissions in time; the CPU decided them"
            )
        state, end = queue_state(channel.queue_state)
        if state == _native.QUEUE_DRAINING:
            notes.append(
                f"{at} was abandoned ({QUEUE_ENDS.get(end, 'closed')}) and has not drained; "
                f"worker {channel.pid} is left to it, the CPU decides its pages"
            )
        elif state == _native.QUEUE_NONE:
            notes.append(
                f"{at} was abandoned ({QUEUE_ENDS.get(end, 'closed')}); the CPU decides its pages "
                "until it can be opened again"
            )
        elif end == _native.QUEUE_FULL:
            notes.append(
                f"{at} takes nothing, others keep it full; the CPU decides until it has room"
            )
    return notes
