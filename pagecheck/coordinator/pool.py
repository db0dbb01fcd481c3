"""The channels of a coordinator and who uses which.

A channel is leased by one thread at a time, in the order of asking. Checks are urgent: a scan gives
a channel up between two spans whenever a check waits for one, and after its turn when another scan
waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from pagecheck.coordinator.block import Block
from pagecheck.coordinator.channel import Channel
from pagecheck.coordinator.keeper import Settings
from pagecheck.coordinator.outcome import ChannelLost, Outcome, TooLate
from pagecheck.elapsed import Allowance
from pagecheck.errors import EngineError, UsageError
from pagecheck.native import Feed
from pagecheck.shm.owner import Owner
from pagecheck.shortage import refused

log = logging.getLogger(__name__)

END_NS: Final = 300_000_000
WATCH_S: Final = 0.1
PAUSE: Final = (0, 0)
TURN_NS: Final = 50_000_000  # how long a scan keeps a channel that another scan waits for


class Stop(threading.Event):
    """Stops one job; it is also set when the whole coordinator stops."""

    def __init__(self, parent: threading.Event) -> None:
        super().__init__()
        self._parent = parent

    def is_set(self) -> bool:
        """Whether the job is to end."""
        return super().is_set() or self._parent.is_set()


class Job(NamedTuple):
    """What is to be run on one or more channels.

    Attributes:
        begin: starts the job on a channel's feed.
        take: the next (position, page count), None when there is no more, or PAUSE; called by
            several threads.
        stop: ends the job early.
        deadline_ns: absolute; what is not answered by then stays undecided.
        urgent: goes before jobs that are not.
        pause: called without a channel after `take` returned PAUSE; waits, bounded by the
            deadline and `stop`, until there is more to take.
    """

    block: Block
    begin: Callable[[Feed], None]
    take: Callable[[], tuple[int, int] | None]
    stop: Stop
    deadline_ns: int
    urgent: bool
    pause: Callable[[], None] | None = None


class _Place:
    """One thread's place in a queue."""

    def __init__(self, job: Job) -> None:
        self.job = job


class Pool:
    """Starts, leases and ends channels."""

    def __init__(self, owner: Owner, settings: Settings, count: int) -> None:
        """Starts `count` channels; `await_ready` completes them.

        Raises:
            EngineError: a worker does not start.
            ResourceError: /dev/shm has no room.
        """
        self.channels: list[Channel] = []
        self.slots = settings.slots
        self._free = threading.Condition()
        self._idle: list[Channel] = []
        self._lost: list[Channel] = []
        self._urgent: deque[_Place] = deque()  # the threads that wait for a channel
        self._patient: deque[_Place] = deque()  # the same for jobs that are not urgent
        self._closed = False
        try:
            for index in range(count):
                self.channels.append(Channel(index, owner, settings))
        except BaseException:
            self._idle = list(self.channels)
            self.close()
            raise
        self._idle = list(self.channels)

    def await_ready(self, limit: Allowance) -> None:
        """Waits until every worker has proved its engine.

        Raises:
            EngineError: a worker cannot run the engine, or is not ready in time.
        """
        for channel in self.channels:
            channel.await_ready(limit)

    def visit_idle(self, visit: Callable[[Channel], None], deadline_ns: int) -> None:
        """Visits, one by one, the channels that nobody uses at this moment; what is not done by
        the deadline is done when the channel is next used."""
        for channel in self.channels:
            if time.monotonic_ns() >= deadline_ns:
                return
            with self._free:
                if self._closed or channel not in self._idle:
                    continue
                self._idle.remove(channel)
            lost = late = False
            try:
                visit(channel)
            except TooLate:
                late = True
            except ChannelLost as error:
                log.error("%s", error)
                lost = True
            finally:
                self.release(channel, lost=lost, doubtful=late)

    def run(self, job: Job, lanes: int, watch: Callable[[], None] | None = None) -> list[Outcome]:
        """Runs a job on up to `lanes` channels, each fed by a thread; one lane needs none.

        Args:
            watch: called about ten times a second while the job runs.

        Raises:
            EngineError: no channel is left.
            ResourceError: no thread can be started.
        """
        if lanes == 1 and watch is None:
            return self._lane(job)
        outcomes: list[Outcome] = []
        errors: list[BaseException] = []

        def lane() -> None:
            try:
                outcomes.extend(self._lane(job))
            except BaseException as error:
                errors.append(error)
                job.stop.set()

        threads = [
            threading.Thread(target=lane, name=f"pagecheck-lane-{n}", daemon=True)
            for n in range(lanes)
        ]
        started: list[threading.Thread] = []
        try:
            for thread in threads:
                try:
                    thread.start()
                except RuntimeError as error:  # fewer lanes do the same work
                    if not started:
                        raise refused("cannot start a thread", error) from error
                    break
                started.append(thread)
            for thread in started:
                while thread.is_alive():
                    thread.join(WATCH_S)
                    if watch is not None:
                        watch()
        except BaseException:
            job.stop.set()  # an interrupt, or no thread: the lanes end at their next look
            end = time.monotonic() + END_NS / 1e9
            for thread in started:
                thread.join(max(0.0, end - time.monotonic()))
            raise
        if errors:
            raise errors[0]
        return outcomes

    def _lane(self, job: Job) -> list[Outcome]:
        """Feeds one channel after the other until there is no more to take."""
        outcomes: list[Outcome] = []
        ended = paused = False
        turn_ends_ns = 0

        def take() -> tuple[int, int] | None:
            nonlocal ended, paused, turn_ends_ns
            if self._is_wanted(job, turn_ends_ns):
                return None  # another job's turn: let it have this channel
            # Set here, so that every turn is worth something, however long it took to begin.
            turn_ends_ns = turn_ends_ns or time.monotonic_ns() + TURN_NS
            piece = job.take()
            ended = piece is None
            paused = piece == PAUSE
            return None if paused else piece

        while not ended and not job.stop.is_set() and time.monotonic_ns() < job.deadline_ns:
            if paused and job.pause is not None:
                job.pause()
                paused = False
            channel = self._lease(job)
            if channel is None:
                break
            outcome = Outcome()
            turn_ends_ns = 0
            try:
                outcome = channel.run(job.block, job.begin, take, job.stop, job.deadline_ns)
                outcomes.append(outcome)
            finally:
                self.release(channel, lost=outcome.lost, doubtful=outcome.doubtful)
        return outcomes

    def _is_wanted(self, job: Job, turn_ends_ns: int) -> bool:
        """Whether a job that is not urgent must let go of its channel. Looks without the lock: a
        wait that is seen late only waits for one more span."""
        if job.urgent or not (self._urgent or self._patient):
            return False
        if self._urgent:
            return True
        others = any(place.job is not job for place in list(self._patient))
        return others and turn_ends_ns != 0 and time.monotonic_ns() >= turn_ends_ns

    def lease_now(self) -> Channel | None:
        """A channel, if one is free at this moment; `release` it."""
        with self._free:
            self._require_open()
            return self._idle.pop() if self._idle else None

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("the coordinator is closed")

    def _lease(self, job: Job) -> Channel | None:
        """Waits for a channel; None when the deadline passed or the job was stopped."""
        queue = self._urgent if job.urgent else self._patient
        place = _Place(job)
        with self._free:
            self._require_open()
            queue.append(place)
            try:
                while not (self._idle and self._is_next(place)):
                    if len(self._lost) == len(self.channels):
                        raise EngineError("no channel is left: every one lost its workers")
                    left = min((job.deadline_ns - time.monotonic_ns()) / 1e9, WATCH_S)
                    if left <= 0 or job.stop.is_set():
                        return None
                    self._free.wait(left)
                    self._require_open()
                return self._idle.pop()
            finally:
                queue.remove(place)
                if self._urgent or self._patient:
                    self._free.notify_all()

    def _is_next(self, place: _Place) -> bool:
        if self._urgent:
            return self._urgent[0] is place
        return self._patient[0] is place

    def release(self, channel: Channel, *, lost: bool, doubtful: bool = False) -> None:
        """Gives a leased channel back.

        Args:
            lost: it is never leased again.
            doubtful: it left pages undecided; the others are leased before it.
        """
        with self._free:
            if lost:
                self._lost.append(channel)
            else:
                self._idle.insert(0 if doubtful else len(self._idle), channel)
            if self._urgent or self._patient or self._closed:
                self._free.notify_all()

    def close(self) -> None:
        """Ends the workers, by force where they do not end by themselves in time.

        The caller has told running jobs to stop; they give their channels back within a slice.
        """
        end_ns = time.monotonic_ns() + END_NS
        with self._free:
            self._closed = True
            self._free.notify_all()
            while len(self._idle) + len(self._lost) < len(self.channels):
                left = (end_ns - time.monotonic_ns()) / 1e9
                if left <= 0 or not self._free.wait(left):
                    break
        for channel in self.channels:
            channel.ask_to_end()
        end_ns = time.monotonic_ns() + END_NS
        for channel in self.channels:
            channel.wait_gone(end_ns)
        end_ns = time.monotonic_ns() + END_NS
        for channel in self.channels:
            with self._free:
                in_use = channel not in self._idle and channel not in self._lost
            channel.close(end_ns, in_use=in_use)
