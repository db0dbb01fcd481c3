"""The channels of a coordinator and who uses which.

A channel is leased by one thread at a time, in the order of asking. Checks have high priority: a
scan releases a channel between two spans whenever a check waits for one, and after its turn when
another scan waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from pagecheck import clock
from pagecheck.child.signals import signals_held
from pagecheck.clock import Allowance
from pagecheck.coordinator.block import Block
from pagecheck.coordinator.channel import Channel, Outcome, Stop
from pagecheck.coordinator.settings import Settings, closed
from pagecheck.coordinator.worker import ChannelLost, TooLate
from pagecheck.errors import EngineError, ResourceError
from pagecheck.logs import Log
from pagecheck.native import Feed
from pagecheck.shm.owner import Owner

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final, NamedTuple

    from pagecheck.coordinator.worker import WorkerProcess
else:
    from pagecheck.typed import NamedTuple

log = Log(__name__)

END_NS: Final = 300_000_000
KILLED_NS: Final = 2_000_000_000  # a full machine needs a moment for the end of one that was killed
WATCH_S: Final = 0.1
PAUSE: Final = (0, 0)
REST_NS: Final = 100_000_000  # after a shortage; twice as long after every further one
REST_MAX_NS: Final = 5_000_000_000
TURN_NS: Final = 50_000_000  # how long a scan keeps a channel that another scan waits for


class Job(NamedTuple):
    """What is to be run on one or more channels.

    Attributes:
        begin: starts the job on a channel's feed.
        take: the next (position, page count), None when there is no more, or PAUSE; called by
            several threads.
        stop: ends the job early.
        deadline_ns: absolute; what is not answered by then stays undecided.
        high_priority: goes before jobs that have none.
        pause: called without a channel after `take` returned PAUSE; waits, bounded by the
            deadline and `stop`, until there is more to take.
    """

    block: Block
    begin: Callable[[Feed], None]
    take: Callable[[], tuple[int, int] | None]
    stop: Stop
    deadline_ns: int
    high_priority: bool = False
    pause: Callable[[], None] | None = None


class Rest(NamedTuple):
    """Until when a channel is left alone, and why."""

    until_ns: int
    why: str


class _Place:
    """One thread's place in a queue."""

    def __init__(self, job: Job) -> None:
        self.job = job


class Pool:
    """Starts, leases and ends channels.

    Danger: after a pause between two packets, taking a lock costs a check 3 us.
    Decision: `_idle` changes without it, too, by `pop` and `append` alone, which other threads see
    whole. Whoever takes a channel so looks at `_closed` afterwards; whoever returns one, at the
    queues and at `_closed`; whoever waits has entered a queue, or set `_closed`, before it looks at
    `_idle`. One of the two sees the other.
    """

    def __init__(
        self, owner: Owner, settings: Settings, count: int, first: WorkerProcess | None = None
    ) -> None:
        """Starts `count` channels; `await_ready` completes them.

        Args:
            first: the first channel's worker, if it was started ahead.

        Raises:
            EngineError: a worker does not start.
            ResourceError: /dev/shm has no room.
        """
        self.channels: list[Channel] = []
        self.slots = settings.slots
        self._free = threading.Condition()
        self._idle: list[Channel] = []
        self._lost: list[Channel] = []
        self._resting: dict[Channel, Rest] = {}
        self._high: deque[_Place] = deque()  # the threads that wait for a channel
        self._low: deque[_Place] = deque()  # the same for jobs without high priority
        self._closed = False
        try:
            for index in range(count):
                self.channels.append(Channel(index, owner, settings, first))
                first = None
        except BaseException:
            self._idle = list(self.channels)
            self.close()
            raise
        self._idle = list(self.channels)

    def await_ready(self, limit: Allowance) -> None:
        """Waits until every worker has tested its engine.

        Raises:
            EngineError: a worker cannot run the engine, or is not ready in time.
        """
        for channel in self.channels:
            channel.await_ready(limit)

    def visit_idle(self, visit: Callable[[Channel], None], deadline_ns: int) -> None:
        """Visits, one by one, the channels that nobody uses at this moment; what is not done by
        the deadline is done when the channel is next used."""
        for channel in self.channels:
            if clock.now_ns() >= deadline_ns:
                return
            with self._free:
                if self._closed:
                    return
                try:
                    self._idle.remove(channel)
                except ValueError:
                    continue
            outcome = Outcome()
            try:
                visit(channel)
            except TooLate:
                outcome.late = True
            except ChannelLost as error:
                outcome.fail(error)
                outcome.notes.append(str(error))
            finally:
                self.release(channel, outcome)

    def run(self, job: Job, threads: int, watch: Callable[[], None] | None = None) -> list[Outcome]:
        """Runs a job on up to `threads` channels, each by a feeder thread; one needs none.

        Args:
            watch: called about ten times a second while the job runs.

        Raises:
            EngineError: no channel is left.
            ResourceError: no channel can be had at this moment.
        """
        if threads == 1 and watch is None:
            return self._feed(job)
        outcomes: list[Outcome] = []
        errors: list[BaseException] = []

        def feed() -> None:
            try:
                outcomes.extend(self._feed(job))
            except BaseException as error:
                errors.append(error)
                job.stop.set()

        feeders = [
            threading.Thread(target=feed, name=f"pagecheck-feeder-{n}", daemon=True)
            for n in range(threads)
        ]
        started: list[threading.Thread] = []
        try:
            for thread in feeders:
                try:
                    with signals_held():
                        thread.start()
                except RuntimeError:  # fewer feeders do the same work, and so does this thread
                    if not started:
                        feed()
                    break
                started.append(thread)
            for thread in started:
                while thread.is_alive():
                    thread.join(WATCH_S)
                    if watch is not None:
                        watch()
        except BaseException:
            job.stop.set()  # an interrupt, or no thread: the feeders end at their next look
            end = clock.now_s() + END_NS / 1e9
            for thread in started:
                thread.join(max(0.0, end - clock.now_s()))
            raise
        if errors:
            raise errors[0]
        return outcomes

    def _feed(self, job: Job) -> list[Outcome]:
        """Feeds one channel after the other until there is no more to take."""
        outcomes: list[Outcome] = []
        ended = paused = tried = False
        turn_ends_ns = 0

        def take() -> tuple[int, int] | None:
            nonlocal ended, paused, turn_ends_ns
            if self._is_wanted(job, turn_ends_ns):
                return None  # another job's turn: let it have this channel
            # Set here, so that every turn is worth something, however long it took to begin.
            turn_ends_ns = turn_ends_ns or clock.now_ns() + TURN_NS
            piece = job.take()
            ended = piece is None
            paused = piece == PAUSE
            return None if paused else piece

        while not ended and not job.stop.is_set() and clock.now_ns() < job.deadline_ns:
            if paused and job.pause is not None:
                job.pause()
                paused = False
            channel = self._lease(job, tried=tried)
            if channel is None:
                break
            outcome = Outcome()
            turn_ends_ns = 0
            try:
                outcome = channel.run(job.block, job.begin, take, job.stop, job.deadline_ns)
                outcomes.append(outcome)
                tried = outcome.shortage is not None
            finally:
                self.release(channel, outcome)
        return outcomes

    def _is_wanted(self, job: Job, turn_ends_ns: int) -> bool:
        """Whether a job without high priority must release its channel. Looks without the lock: a
        wait that is seen late only waits for one more span."""
        if job.high_priority or not (self._high or self._low):
            return False
        if self._high:
            return True
        others = any(place.job is not job for place in list(self._low))
        return others and turn_ends_ns != 0 and clock.now_ns() >= turn_ends_ns

    def lease_now(self) -> Channel | None:
        """A channel, if one is idle at this moment; `release` it."""
        channel = self._pop_idle()
        if channel is None and self._resting:
            with self._free:
                self._wake()
            channel = self._pop_idle()
        if self._closed:
            if channel is not None:
                self.put_back(channel)
            raise closed()
        return channel

    def put_back(self, channel: Channel) -> None:
        """Returns a leased channel of which nothing new is known."""
        self._idle.append(channel)
        if self._high or self._low or self._closed:
            with self._free:
                self._free.notify_all()

    def _pop_idle(self) -> Channel | None:
        """Takes an idle channel; under the lock or not."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @property
    def is_lost(self) -> bool:
        """Whether no channel will ever be leased again."""
        return len(self._lost) == len(self.channels)

    @property
    def waiting(self) -> int:
        """Threads that wait for a channel."""
        return len(self._high) + len(self._low)

    def state_of(self, channel: Channel) -> str:
        """`idle`, `working`, `resting` after a shortage, or `lost` for good; looks without the
        lock."""
        if channel in self._lost:
            return "lost"
        if channel in self._resting:
            return "resting"
        return "idle" if channel in self._idle else "working"

    def _wake(self) -> None:
        """Lets channels whose rest is over be leased again, after the others."""
        now_ns = clock.now_ns()
        for channel in [each for each, rest in self._resting.items() if rest.until_ns <= now_ns]:
            del self._resting[channel]
            self._idle.insert(0, channel)

    def _require_some(self, *, tried: bool) -> None:
        """Raises EngineError where no channel will be free again; ResourceError where every one
        rests and the job has met the shortage itself: else it waits for a rest to end."""
        if self.is_lost:
            raise EngineError("no channel is left: every one lost its workers")
        if self._idle or len(self._lost) + len(self._resting) < len(self.channels):
            return
        if tried:
            whys = [rest.why for rest in self._resting.values()]
            raise ResourceError(f"no channel at this moment: {whys[0]}; try again later")

    def _require_open(self) -> None:
        if self._closed:
            raise closed()

    def _lease(self, job: Job, *, tried: bool) -> Channel | None:
        """Waits for a channel; None when the deadline passed or the job was stopped.

        Args:
            tried: the last channel that the job had met a shortage.
        """
        queue = self._high if job.high_priority else self._low
        place = _Place(job)
        with self._free:
            self._require_open()
            queue.append(place)
            try:
                while True:
                    if self._resting:
                        self._wake()
                    channel = self._pop_idle() if self._is_next(place) else None
                    if channel is not None:
                        return channel
                    self._require_some(tried=tried)
                    left = min((job.deadline_ns - clock.now_ns()) / 1e9, WATCH_S)
                    if left <= 0 or job.stop.is_set():
                        return None
                    self._free.wait(left)
                    self._require_open()
            finally:
                queue.remove(place)
                if self._high or self._low:
                    self._free.notify_all()

    @property
    def _leased(self) -> list[Channel]:
        free = {*self._idle, *self._lost, *self._resting}
        return [channel for channel in self.channels if channel not in free]

    def _is_next(self, place: _Place) -> bool:
        if self._high:
            return self._high[0] is place
        return self._low[0] is place

    def release(self, channel: Channel, outcome: Outcome | None = None) -> None:
        """Returns a leased channel.

        Args:
            outcome: how it was left; by default well. One that is lost is never leased again, one
                that met a shortage not for a while, a deprioritised one after the others.
        """
        if outcome is None:
            channel.rest_ns = 0
            self.put_back(channel)
            return
        with self._free:
            if outcome.lost:
                log.error("channel %d is lost: %s", channel.index, " ".join(outcome.notes))
                self._lost.append(channel)
            elif outcome.shortage is not None:
                self._rest(channel, outcome.shortage)
            else:
                channel.rest_ns = 0 if outcome.decided else channel.rest_ns
                self._idle.insert(0 if outcome.deprioritised else len(self._idle), channel)
            if self._high or self._low or self._closed:
                self._free.notify_all()

    def _rest(self, channel: Channel, why: str) -> None:
        """Leaves a channel alone for a while, twice as long after every shortage in a row."""
        if not channel.rest_ns:
            log.warning("%s; it is tried again, after at most %g s", why, REST_MAX_NS / 1e9)
        channel.rest_ns = min(max(2 * channel.rest_ns, REST_NS), REST_MAX_NS)
        self._resting[channel] = Rest(clock.now_ns() + channel.rest_ns, why)

    def close(self) -> None:
        """Ends the workers, by force where they do not end by themselves in time.

        The caller has stopped running jobs; they release their channels within a slice.
        """
        end_ns = clock.now_ns() + END_NS
        with self._free:
            self._closed = True
            self._free.notify_all()
            while self._leased:
                left = (end_ns - clock.now_ns()) / 1e9
                if left <= 0 or not self._free.wait(left):
                    break
        for channel in self.channels:
            channel.ask_to_end()
        end_ns = clock.now_ns() + END_NS
        for channel in self.channels:
            channel.wait_gone(end_ns)
        end_ns = clock.now_ns() + KILLED_NS
        for channel in self.channels:
            with self._free:
                in_use = channel in self._leased
            channel.close(end_ns, in_use=in_use)
