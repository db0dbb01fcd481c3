"""One channel: a ring and the worker behind it, fed by one thread at a time and looked after.

Facts: a worker can be killed, hang, or answer nonsense, and its segment may then be half written.
Danger: a late answer from a worker thought dead, or a batch that kills every worker it meets.
Decision: a worker that fails is killed and reaped and gets a new ring under new names; what it
left unanswered is given out again; a batch that was in hand at two deaths is set aside as
undecided; a channel that loses five workers without one answer in between is given up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.coordinator.outcome import ChannelLost, Outcome, TooLate
from pagecheck.coordinator.process import WorkerDied, WorkerProcess
from pagecheck.coordinator.watch import SLICE_NS, Watch
from pagecheck.errors import EngineError, InternalError, ResourceError
from pagecheck.native import Feed, _native
from pagecheck.shm.owner import Owner
from pagecheck.shm.ring import Ring

if TYPE_CHECKING:
    from pagecheck.coordinator.block import Block
    from pagecheck.native._native import Memory

log = logging.getLogger(__name__)

START_NS: Final = 30_000_000_000
NEVER_NS: Final = 1 << 62
DEATHS_PER_BATCH: Final = 2
FAILURES_MAX: Final = 5
CHECK_PAGES: Final = 128  # pages per batch of a check: one multifd packet

Take = Callable[[], "tuple[int, int] | None"]


class Settings(NamedTuple):
    """What every channel of a coordinator has in common.

    Attributes:
        slots: slots per ring.
        slot_pages: the most pages of a batch, a multiple of 64.
        stall_ns: a worker whose progress word stands still this long is hung.
    """

    kernel: str | None
    slots: int
    slot_pages: int
    nice: int
    stall_ns: int


class Channel:
    """A ring, its worker, and the thread-private state of feeding it."""

    def __init__(self, index: int, owner: Owner, settings: Settings) -> None:
        """Creates the ring and starts the worker; `await_ready` completes it.

        Raises:
            ResourceError: /dev/shm has no room.
            EngineError: no process can be started.
        """
        self.index = index
        self.replaced = 0
        self._owner = owner
        self._settings = settings
        self._generation = 0
        self.stale = False  # a block was detached since the worker was last spoken to
        self._failures = 0  # workers lost without an answer in between
        self._decided_then = 0  # pages decided when the last worker was lost
        self._workerless = False  # the last one is gone and no other took its place yet
        self._ending = False
        self._watch: Watch | None = None
        self._attached: dict[int, Block] = {}
        self._ring, self._process = self._start_worker()
        self._feed: Feed | None = None

    @property
    def feed(self) -> Feed:
        """Our end of the ring."""
        if self._feed is None:
            raise InternalError(f"channel {self.index} is not ready")
        return self._feed

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def kernel(self) -> str | None:
        """The CPU kernel that the worker runs."""
        return self._process.kernel

    @property
    def segment_name(self) -> str:
        """POSIX name of the ring's segment."""
        return self._ring.segment_name

    def _start_worker(self) -> tuple[Ring, WorkerProcess]:
        settings = self._settings
        self._generation += 1
        ring = Ring(self._owner, self.index, self._generation, settings.slots, settings.slot_pages)
        process: WorkerProcess | None = None
        try:
            process = WorkerProcess(self.index)
            process.open(ring, settings.kernel, settings.nice)
        except BaseException as error:
            if process is not None:
                process.kill()
                process.close()
            ring.remove()
            if isinstance(error, WorkerDied):
                raise EngineError(f"channel {self.index}: {error}") from error
            raise
        return ring, process

    @staticmethod
    def _discard(ring: Ring, process: WorkerProcess) -> None:
        process.kill()
        process.close()
        ring.remove()

    def await_ready(self, deadline_ns: int) -> None:
        """Waits for the worker's set-up.

        Raises:
            EngineError: the worker cannot run its engine, or did not start in time.
        """
        try:
            self._process.await_ready(deadline_ns)
        except WorkerDied as error:
            raise EngineError(f"channel {self.index}: {error}") from error
        try:
            self._feed = Feed(self._ring.fd, self._ring.submit_name, self._ring.done_name)
        except OSError as error:
            raise EngineError(f"channel {self.index}: cannot open its ring: {error}") from error

    def ensure_attached(self, block: Block, deadline_ns: int = NEVER_NS) -> None:
        """Makes the block known to the worker, unless it is.

        Raises:
            ChannelLost: the worker cannot be kept alive.
            TooLate: the deadline passed first.
            UsageError: the block is detached.
        """
        if self._attached.get(block.id) is block and not self.stale and not self._workerless:
            return
        self.stale = False
        while True:
            block.require_attached()
            try:
                if self._workerless:
                    self._replace("has no worker", deadline_ns)
                self._forget_others(block, deadline_ns)
                if block.id not in self._attached:
                    self._attach(block, deadline_ns)
                return
            except WorkerDied as error:
                self._replace(str(error), deadline_ns)

    def forget_detached(self) -> None:
        """Makes the worker unmap and close the blocks that were detached."""
        self.stale = False
        try:
            self._forget_others(None, NEVER_NS)
        except WorkerDied as error:
            self._replace(str(error), NEVER_NS)

    def _forget_others(self, block: Block | None, deadline_ns: int) -> None:
        """Detached blocks, and another block that had the id of `block`."""
        for each in list(self._attached.values()):
            if each.detached or (block is not None and each.id == block.id and each is not block):
                del self._attached[each.id]
                with self._exchange():
                    wake = self.feed.raise_attention
                    self._process.detach(each.id, wake, deadline_ns)

    def _attach(self, block: Block, deadline_ns: int) -> None:
        with self._exchange():
            message, wake = block.attach_message(), self.feed.raise_attention
            self._process.attach(message, block.fd, wake, deadline_ns)
        self._attached[block.id] = block

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """A question and its answer; when only half of it took place, the worker is not asked
        again: the next use finds it dead and replaces it."""
        try:
            yield
        except WorkerDied:
            raise
        except BaseException:
            self._workerless = True
            raise

    def check(
        self,
        block: Block,
        file_end: int,
        offsets: Memory,
        answer: tuple[Memory, Memory, Memory],
        stop: threading.Event,
        deadline_ns: int,
    ) -> tuple[bool, int] | Outcome:
        """Decides a few batches of offsets, in one call of the C helper when all goes well.

        Args:
            file_end: byte offset in the file where the block ends.
            answer: zero, decided (both all 0) and partition, as `Feed.check` takes them.

        Returns:
            What `Feed.check` says; or the outcome, when somebody had to look after the worker:
            then the partition was not written.
        """
        if self._attached.get(block.id) is not block or self.stale or self._workerless:
            try:
                self.ensure_attached(block, deadline_ns)
            except ChannelLost as error:
                return Outcome(lost=True, notes=[str(error)])
            except TooLate:
                return Outcome()
        slice_ns = min(deadline_ns, time.monotonic_ns() + SLICE_NS)
        try:
            state, sure, normal = self.feed.check(
                block.id, CHECK_PAGES, block.fd, file_end, offsets, *answer, slice_ns
            )
        except BaseException:
            self.feed.end()  # an interrupt: late answers reach nobody
            raise
        if state == _native.PUMP_DONE:
            self._failures = 0
            self._watch = None
            return sure, normal
        return self.run(block, lambda _feed: None, lambda: None, stop, deadline_ns)

    def run(
        self,
        block: Block,
        begin: Callable[[Feed], None],
        take: Take,
        stop: threading.Event,
        deadline_ns: int,
    ) -> Outcome:
        """Gives out what `take` returns until it returns None, and waits for the answers.

        Args:
            begin: starts the job on the feed.
            take: the next (position, page count), or None when there is no more.
            stop: set by another thread to end early.
            deadline_ns: absolute; what is not answered by then stays undecided.
        """
        outcome = Outcome()
        try:
            self.ensure_attached(block, deadline_ns)
            begin(self.feed)
            self._drive(take, stop, deadline_ns, outcome)
        except TooLate:
            pass  # what is not decided is undecided
        except ChannelLost as error:
            log.error("%s", error)
            outcome.lost = True
            outcome.notes.append(f"{error}; its unfinished pages are undecided")
        finally:
            outcome.decided, outcome.undecided = self.feed.end()
            self._decided_then = 0
            if self.feed.occupied() == 0:
                self._failures = 0 if outcome.decided else self._failures
                self._watch = None
        return outcome

    def _drive(self, take: Take, stop: threading.Event, deadline_ns: int, outcome: Outcome) -> None:
        deaths: Counter[tuple[int, int]] | None = None
        hungry = True
        while True:
            now = time.monotonic_ns()
            state = self.feed.pump(hungry, min(deadline_ns, now + SLICE_NS))
            if state == _native.PUMP_DONE:
                return
            if stop.is_set() or time.monotonic_ns() >= deadline_ns:
                return
            if state == _native.PUMP_HUNGRY:
                more = take()
                if more is None:
                    hungry = False
                else:
                    self.feed.more(*more)
                continue
            failure = self._failure(state)
            if failure is not None:
                deaths = Counter() if deaths is None else deaths
                broken = state == _native.PUMP_BROKEN
                self._bury(failure, deaths, outcome, deadline_ns, broken=broken)

    def _failure(self, state: int) -> str | None:
        """Why the worker must be replaced, or None."""
        if state == _native.PUMP_BROKEN:
            return f"worker {self.pid} gave an answer that makes no sense"
        if not self._process.is_alive():
            return self._process.describe_end()
        if self._watch is None:  # kept over jobs, for callers that wait less than the stall
            self._watch = Watch(self.feed)
        still_ns = self._watch.still_ns(self.feed)
        if still_ns >= self._settings.stall_ns:
            return f"worker {self.pid} stood still for {still_ns / 1e9:.1f} s"
        return None

    def _bury(
        self,
        failure: str,
        deaths: Counter[tuple[int, int]],
        outcome: Outcome,
        deadline_ns: int,
        *,
        broken: bool,
    ) -> None:
        """Replaces the worker and decides what becomes of the batch that it had in hand."""
        self._process.kill()
        # What it answered before it died counts; the rest of the ring is never read again.
        self.feed.pump(True, 0)
        victim = self.feed.oldest() if broken or self.feed.deciding() else None
        self._replace(failure, deadline_ns)
        if victim is None:
            return
        deaths[victim] += 1
        if deaths[victim] >= DEATHS_PER_BATCH:
            self.feed.skip_oldest()
            position, count = victim
            note = (
                f"channel {self.index}: {count} pages from page {position} were in hand when "
                f"{deaths[victim]} workers died; set aside as undecided (last: {failure})"
            )
            log.error("%s", note)
            outcome.notes.append(note)

    def _replace(self, failure: str, deadline_ns: int) -> None:
        """A new worker on a new ring, with the same blocks.

        Raises:
            ChannelLost: that does not work.
            TooLate: the deadline passed first; the next use tries again.
        """
        log.warning("channel %d: %s; replacing it", self.index, failure)
        self._workerless = True
        decided = self.feed.counts()[0]
        self._failures = 1 if decided > self._decided_then else self._failures + 1
        self._decided_then = decided
        while True:
            self._discard(self._ring, self._process)
            if self._ending:
                raise ChannelLost(f"channel {self.index}: the coordinator is closing")
            if time.monotonic_ns() >= deadline_ns:
                raise TooLate
            if self._failures >= FAILURES_MAX:
                raise ChannelLost(f"channel {self.index} lost {self._failures} workers: {failure}")
            try:
                self._take_new_worker(deadline_ns)
                return
            except WorkerDied as error:
                failure = str(error)
                self._failures += 1
            except (EngineError, InternalError, ResourceError, OSError, ValueError) as error:
                raise ChannelLost(f"channel {self.index}: {error}") from error

    def _take_new_worker(self, deadline_ns: int) -> None:
        self._ring, self._process = self._start_worker()
        if self._ending:  # close() may have seen the old one only
            self._discard(self._ring, self._process)
            raise ChannelLost(f"channel {self.index}: the coordinator is closing")
        self._process.await_ready(min(deadline_ns, time.monotonic_ns() + START_NS))
        self.feed.rebind(self._ring.fd, self._ring.submit_name, self._ring.done_name)
        self._watch = None
        self.replaced += 1
        # A block that was detached meanwhile may still be in use by this very job.
        known = {key: block for key, block in self._attached.items() if block.fd >= 0}
        for block in known.values():
            self._attach(block, deadline_ns)
        self._attached = known
        self._workerless = False

    def ask_to_end(self) -> None:
        """Hangs up on the worker, so that all of them end side by side; none is replaced now."""
        self._ending = True
        self._process.ask_to_end()
        if self._feed is not None:
            self._feed.raise_attention()

    def close(self, deadline_ns: int, *, in_use: bool) -> None:
        """Ends the worker, by force after the deadline, and removes every name. May be called
        twice.

        Args:
            in_use: a thread is still inside `run`: our end of the ring is left to it.
        """
        self._ending = True
        ring, process = self._ring, self._process
        if not process.wait_gone(deadline_ns):
            process.kill()
        process.close()
        ring.remove()
        if self._feed is not None and not in_use:
            self._feed.close()
