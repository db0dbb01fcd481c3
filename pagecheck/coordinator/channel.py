"""One channel: jobs are submitted to its worker, which is supervised meanwhile.

Danger: a batch that kills every worker it meets.
Decision: what a dead worker left unanswered is submitted again; a batch that was in progress at two
deaths is set aside as undecided. How workers are kept is `supervisor.py`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from pagecheck import clock
from pagecheck.child.watch import SLICE_NS, Watch
from pagecheck.coordinator.supervisor import WorkerSupervisor
from pagecheck.coordinator.worker import ChannelLost, TooLate
from pagecheck.logs import Log
from pagecheck.native import Feed, _native

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.coordinator.block import Block
    from pagecheck.native._native import Memory

log = Log(__name__)

DEATHS_PER_BATCH: Final = 2
SETTLE_LOOK_S: Final = 0.001

Take = Callable[[], "tuple[int, int] | None"]


class Stop(threading.Event):
    """Stops one job; it is also set when the whole coordinator stops."""

    def __init__(self, parent: threading.Event) -> None:
        super().__init__()
        self._parent = parent

    def is_set(self) -> bool:
        """Whether the job is to end."""
        return super().is_set() or self._parent.is_set()


class Outcome:
    """What one run on one channel did.

    Attributes:
        decided, undecided: pages.
        late: the deadline passed before the worker could be asked.
        lost: the channel cannot be kept alive and must not be used again.
        shortage: what the host did not give; the channel may be used again later.
        notes: what a user should know.
    """

    def __init__(
        self, *, lost: bool = False, late: bool = False, notes: list[str] | None = None
    ) -> None:
        self.decided = 0
        self.undecided = 0
        self.lost = lost
        self.late = late
        self.shortage: str | None = None
        self.notes = notes or []

    def fail(self, error: ChannelLost) -> None:
        """Takes note that the channel could not be kept alive."""
        if error.passing:
            self.shortage = str(error)
        else:
            self.lost = True

    @property
    def deprioritised(self) -> bool:
        """Whether the channel should be leased after the others."""
        return self.late or self.undecided > 0


class Channel(WorkerSupervisor):
    """A ring, its worker, and the feeding of it by one thread at a time."""

    def submit_check(self, block: Block, offsets: object) -> int:
        """Submits a check of a few batches, if nobody has to be asked anything before.

        Returns:
            How many offsets there are; `finish_check` or `run` has to follow. 0: nothing was
            submitted: the worker does not know the block, or `Feed.submit_check` refused them.
        """
        # In this frame, as `_knows` and `feed` would: a packet waits for it.
        known = self._attached.get(block.id) is block
        if not known or self.stale or self._workerless or self._awaited or self._feed is None:
            return 0
        return self._feed.submit_check(block.target, offsets)

    def finish_check(
        self, block: Block, zero: Memory, decided: Memory, partition: Memory, deadline: float
    ) -> int:
        """Waits for the answers to `submit_check`, until the worker has to be looked at.

        Returns:
            What `Feed.finish_check` says; where that is negative, `run` has to follow.
        """
        feed = self._feed or self.feed
        normal = feed.finish_check(block.target, zero, decided, partition, deadline)
        if normal >= 0:
            self._failures = 0
            self._watch = None
        return normal

    def run(
        self,
        block: Block,
        begin: Callable[[Feed], None],
        take: Take,
        stop: threading.Event,
        deadline_ns: int,
    ) -> Outcome:
        """Submits what `take` returns until it returns None, and waits for the answers.

        Args:
            begin: starts the job on the feed.
            take: the next (position, page count), or None when there is no more.
            stop: set by another thread to end early.
            deadline_ns: absolute; what is not answered by then stays undecided.
        """
        outcome = Outcome()
        failed: ChannelLost | None = None
        try:
            self.ensure_attached(block, deadline_ns)
            begin(self.feed)
            self._decided_then = 0
            self._drive(block, take, stop, deadline_ns, outcome)
        except TooLate:
            outcome.late = True  # what is not decided is undecided
        except ChannelLost as error:
            failed = error
            outcome.fail(error)
        finally:
            outcome.decided, outcome.undecided = self.feed.end()
            if self.feed.occupied() == 0:
                self._failures = 0 if outcome.decided else self._failures
                self._watch = None
        if failed is not None and (outcome.undecided or outcome.lost):
            outcome.notes.append(f"{failed}; its unfinished pages are undecided")
        return outcome

    def settle(self, deadline_ns: int) -> None:
        """Waits until no abandoned batch is in progress, so that the worker writes no more; one
        that has not ended by the absolute time is killed, and replaced at the next use."""
        while not self._workerless and self.feed.occupied():
            if clock.now_ns() >= deadline_ns or not self._process.is_alive():
                self._kill()
                self._mark_dead(f"worker {self.pid} did not end an abandoned batch")
                return
            clock.sleep_s(SETTLE_LOOK_S)
            self.feed.pump(True, 0)

    @property
    def may_write(self) -> bool:
        """Whether its worker may have an abandoned batch in progress."""
        if self.feed.occupied() == 0:
            return False
        return self.pid in self.unreaped or not self._process.wait_gone(0)

    def _drive(
        self,
        block: Block,
        take: Take,
        stop: threading.Event,
        deadline_ns: int,
        outcome: Outcome,
    ) -> None:
        deaths: Counter[tuple[int, int]] = Counter()
        more_follow = True
        while True:
            now = clock.now_ns()
            state = self.feed.pump(more_follow, min(deadline_ns, now + SLICE_NS))
            if state == _native.PUMP_DONE:
                return
            # Looked at even when it is late: callers with short deadlines never come further.
            failure = None if state == _native.PUMP_NEED_MORE else self._failure(state)
            if failure is not None:
                self._kill()
                broken = state in (_native.PUMP_BROKEN, _native.PUMP_GONE)
                victim = self._mark_dead(failure, broken=broken)
            if stop.is_set() or clock.now_ns() >= deadline_ns:
                return
            if failure is not None:
                self._renew(failure, deadline_ns)
                self._skip_deadly(victim, deaths, failure, outcome)
                self._reach(block, deadline_ns)
            elif state == _native.PUMP_NEED_MORE:
                more = take()
                if more is None:
                    more_follow = False
                else:
                    self.feed.more(*more)

    def _failure(self, state: int) -> str | None:
        """Why the worker must be replaced, or None."""
        if state in (_native.PUMP_BROKEN, _native.PUMP_GONE):
            return f"worker {self.pid} gave an invalid answer"
        if not self._process.is_alive():
            return self._process.describe_end()
        if self._watch is None:  # kept over jobs, for callers that wait less than the stall
            self._watch = Watch(self.feed.progress)
        still_ns = self._watch.unchanged_ns()
        if still_ns >= self._settings.stall_ns:
            return f"worker {self.pid} made no progress for {still_ns / 1e9:.1f} s"
        return None

    def _skip_deadly(
        self,
        victim: tuple[int, int] | None,
        deaths: Counter[tuple[int, int]],
        failure: str,
        outcome: Outcome,
    ) -> None:
        """Decides what becomes of the batch that the last worker had in progress."""
        if victim is None:
            return
        deaths[victim] += 1
        if deaths[victim] < DEATHS_PER_BATCH:
            return
        self.feed.skip_oldest()
        position, count = victim
        note = (
            f"channel {self.index}: {count} pages from page {position} were in progress when "
            f"{deaths[victim]} workers died; set aside as undecided (last: {failure})"
        )
        log.error("%s", note)
        outcome.notes.append(note)
