"""Supervises the worker behind a ring: starts it, talks to it, replaces it when it fails, ends it.

Facts: a worker can be killed, hang, or answer nonsense, and its segment may then be half written.
Danger: a late answer from a worker thought dead; a reply that is taken for another one's; a
deadline of the caller's that is taken for a failure of the worker's.
Decision: a worker that fails is killed and reaped and gets a new ring under new names; a reply that
is still to come is remembered and taken by the next use; a channel that loses five workers without
one answer in between is lost. What the host does not give at this moment (memory, descriptors,
processes, room in /dev/shm) is not the worker's failure: the next use tries again.
"""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import threading

from pagecheck import clock
from pagecheck.child.process import ChildDied
from pagecheck.child.signals import signals_held
from pagecheck.child.watch import Watch, reply_limit, start_limit
from pagecheck.coordinator.settings import Settings
from pagecheck.coordinator.worker import ChannelLost, TooLate, WorkerProcess
from pagecheck.errors import (
    EngineError,
    InternalError,
    PagecheckError,
    ResourceError,
    StartTimeout,
)
from pagecheck.logs import Log
from pagecheck.native import Feed
from pagecheck.shm.layout import QUEUE_STATE, STATS_WORDS
from pagecheck.shm.owner import Owner
from pagecheck.shm.ring import NamedRing
from pagecheck.shortage import explain

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final

    from pagecheck.child.watch import IsOver
    from pagecheck.clock import Allowance
    from pagecheck.coordinator.block import Block

log = Log(__name__)

FAILURES_MAX: Final = 5
PATIENCE_NS: Final = 2_000_000_000  # for a shortage, while a job waits
PAUSE_NS: Final = 200_000_000  # between two tries meanwhile
LOOK_NS: Final = 20_000_000


class WorkerSupervisor:
    """A ring, the worker behind it, and what that worker knows."""

    def __init__(
        self, index: int, owner: Owner, settings: Settings, first: WorkerProcess | None = None
    ) -> None:
        """Creates the ring and starts the worker; `await_ready` completes it.

        Args:
            first: a worker that was started ahead, which is now ended here.

        Raises:
            ResourceError: /dev/shm has no room.
            EngineError: no process can be started.
        """
        self.index = index
        self.replaced = 0
        self.unreaped: set[int] = set()  # ids of workers that did not end when they were killed
        self.rest_ns = 0  # how long it was last left alone after a shortage; the pool's
        self._owner = owner
        self._settings = settings
        self._generation = 0
        self.stale = False  # a block was detached since the worker was last spoken to
        self._failures = 0  # workers lost without an answer in between
        self._decided_then = 0  # pages decided when the last worker was lost
        self._workerless = False  # the last one is gone and no other took its place yet
        self._ending = False
        self._watch: Watch | None = None
        self._awaited: tuple[str, Block | None, IsOver] | None = None  # reply, about what
        self._attached: dict[int, Block] = {}
        self._swap = threading.Lock()  # held while the ring becomes another one
        self._past = [0] * STATS_WORDS
        self._past_failure: tuple[bytes, bytes] | None = None
        # What the last worker that was ready said: `engine`, `queue`, `submit`, `why`, `kernel`.
        self.picked: dict[str, Any] = {}
        self._was_ready = False  # a worker of this channel has tested its engine
        self._ring, self._process = self._start_first(first)
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
        kernel: str | None = self.picked.get("kernel")
        return kernel

    def is_alive(self) -> bool:
        """Whether the worker has not ended; does not wait."""
        return not self._workerless and self._process.is_alive()

    def statistics(self) -> list[int]:
        """The words of `shm.layout.STATS`, summed over all workers of this channel so far."""
        with self._swap:
            return [a + b for a, b in zip(self._past, self._ring.statistics(), strict=True)]

    def failure(self) -> tuple[bytes, bytes] | None:
        """The first failing descriptor of this channel's work queues and its record."""
        with self._swap:
            return self._past_failure or self._ring.failure()

    @property
    def queue_state(self) -> int:
        """The word `queue_state` of the worker that is there now."""
        with self._swap:
            return self._ring.statistics()[QUEUE_STATE]

    @property
    def segment_name(self) -> str:
        """POSIX name of the ring's segment."""
        return self._ring.segment_name

    def _start_first(self, ahead: WorkerProcess | None = None) -> tuple[NamedRing, WorkerProcess]:
        """A worker on a ring; where it is killed before it knows of it, another one."""
        while True:
            try:
                return self._start_worker(ahead)
            except ChildDied as error:
                ahead = None
                self._count_failed_start(str(error))

    def _count_failed_start(self, failure: str) -> None:
        """Raises EngineError once that many workers in a row did not live to be ready."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            raise EngineError(
                f"channel {self.index} lost {self._failures} workers while they started: {failure}"
            )
        log.warning("channel %d: %s while it started; trying again", self.index, failure)
        self.replaced += 1

    def _start_worker(self, ahead: WorkerProcess | None = None) -> tuple[NamedRing, WorkerProcess]:
        """Raises ChildDied where the worker is gone before it knows of its ring."""
        settings = self._settings
        self._generation += 1
        ring = NamedRing(
            self._owner, self.index, self._generation, settings.slots, settings.slot_pages
        )
        process = ahead
        try:
            process = process or WorkerProcess(self.index)
            process.open(ring, settings.message(replacement=self._was_ready))
        except BaseException:
            if process is not None:
                process.kill()
                process.close()
            ring.remove()
            raise
        return ring, process

    def _kill(self) -> None:
        if not self._process.kill():
            self.unreaped.add(self.pid)

    def _discard_current(self) -> None:
        """Ends the worker and keeps what it counted. May be called twice."""
        self._kill()
        self._process.close()
        with self._swap:
            counted = self._ring.statistics()
            self._past = [a + b for a, b in zip(self._past, counted, strict=True)]
            self._past_failure = self._past_failure or self._ring.failure()
            self._ring.remove()

    def await_ready(self, limit: Allowance) -> None:
        """Waits for the worker's set-up. One that dies meanwhile (the OOM killer, an operator) is
        replaced like any other, five times at most.

        Raises:
            EngineError: the worker cannot run its engine; `StartTimeout`: not ready in time.
        """
        reply: dict[str, Any] | None = None
        while reply is None and not limit.is_used_up():
            try:
                reply = self._process.receive_reply("ready", limit.step_end_ns())
            except ChildDied as error:
                self._discard_current()
                self._count_failed_start(str(error))
                with signals_held():
                    self._ring, self._process = self._start_first()
        if reply is None:
            raise StartTimeout(f"channel {self.index}: worker {self.pid} was not ready in time")
        try:
            self._feed = Feed(self._ring.fd, self._ring.control_fd)
        except OSError as error:
            raise EngineError(f"channel {self.index}: cannot open its ring: {error}") from error
        self.picked = reply
        self._was_ready = True
        self._failures = 0

    def ensure_attached(self, block: Block, deadline_ns: int) -> None:
        """Makes the block known to the worker, unless it is.

        Raises:
            ChannelLost: the worker cannot be kept alive.
            TooLate: the deadline passed first; the next use goes on from there.
            UsageError: the block is detached.
        """
        if not self._knows(block):
            block.require_attached()
            self._reach(block, deadline_ns)

    def _knows(self, block: Block) -> bool:
        known = self._attached.get(block.id) is block
        return known and not self.stale and not self._workerless and self._awaited is None

    def forget_detached(self, deadline_ns: int) -> None:
        """Makes the worker close the blocks that were detached; raises as `ensure_attached`."""
        self._reach(None, deadline_ns)

    def _reach(self, block: Block | None, deadline_ns: int) -> None:
        """A worker that lives, knows the block, and knows no detached one."""
        while True:
            self.stale = False
            try:
                self._settle(deadline_ns)
                if self._workerless:
                    self._renew("has no worker", deadline_ns)
                for each in list(self._attached.values()):
                    if (each.detached and each is not block) or _same_id(each, block):
                        del self._attached[each.id]
                        self._process.detach(each.id, self.feed.raise_attention)
                        self._await("detached", each, deadline_ns)
                if block is not None and block.id not in self._attached:
                    message, fds = block.attach_message(), block.source.attachment_fds
                    if block.sink is not None:
                        message["sink"] = block.sink.message(again=self.replaced > 0)
                        fds = (*fds, *block.sink.fds)
                    self._process.attach(message, fds, self.feed.raise_attention)
                    self._await("attached", block, deadline_ns)
                return
            except ChildDied as error:
                self._mark_dead(str(error))
                self._renew(str(error), deadline_ns)
            except ResourceError as error:  # says nothing about the worker
                self.stale = True
                raise ChannelLost(str(error), passing=True) from error
            except BaseException:
                self.stale = True
                raise

    def _await(self, kind: str, block: Block | None, deadline_ns: int) -> None:
        starts = kind == "ready"
        is_over = (
            start_limit() if starts else reply_limit(self.feed.progress, self._settings.stall_ns)
        )
        self._awaited = (kind, block, is_over)
        self._settle(deadline_ns)

    def _settle(self, deadline_ns: int) -> None:
        """Takes the reply that is still to come, if one is.

        Raises:
            TooLate: the deadline passed first; the reply is still awaited.
            ChildDied: the worker ended, or is silent for longer than it may be.
        """
        if self._awaited is None:
            return
        kind, block, is_over = self._awaited
        try:
            reply = self._process.await_reply(kind, is_over, deadline_ns)
        except PagecheckError:
            self._workerless = True  # it ends after such a reply
            self._awaited = None
            raise
        if reply is None:
            raise TooLate
        self._awaited = None
        if kind == "ready":
            self.picked = reply
            self.feed.rebind(self._ring.fd, self._ring.control_fd)
            self._workerless = False
        elif kind == "attached" and block is not None:
            if reply.get("block") != block.id:
                raise InternalError(f"channel {self.index}: {reply!r} is not block {block.id}")
            self._attached[block.id] = block

    def _mark_dead(self, failure: str, *, broken: bool = False) -> tuple[int, int] | None:
        """Takes note of a worker that is gone.

        Args:
            broken: it was killed for its answer.

        Returns:
            The batch that it had in progress: position and count.
        """
        log.warning("channel %d: %s; replacing it", self.index, failure)
        self._workerless = True
        self._awaited = None
        self._attached = {}
        self._watch = None
        # What it answered before it died counts; the rest of the ring is never read again.
        self.feed.pump(True, 0)
        decided = self.feed.counts()[0]
        self._failures = 1 if decided > self._decided_then else self._failures + 1
        self._decided_then = decided
        oldest = self.feed.oldest()
        return oldest[:2] if oldest is not None and (broken or oldest[2]) else None

    def _renew(self, failure: str, deadline_ns: int) -> None:
        """A new worker on a new ring; it knows no block yet.

        Raises:
            ChannelLost: that does not work; a shortage is waited for a while.
            TooLate: the deadline passed first; the next use goes on from there.
        """
        patience_ends_ns = clock.now_ns() + PATIENCE_NS
        while True:
            self._discard_current()
            if self._ending:
                raise ChannelLost(f"channel {self.index}: the coordinator is closing")
            if self._failures >= FAILURES_MAX:
                raise ChannelLost(f"channel {self.index} lost {self._failures} workers: {failure}")
            if clock.now_ns() >= deadline_ns:
                raise TooLate
            try:
                self.replaced += 1
                with signals_held():
                    ring, process = self._start_worker()
                    with self._swap:
                        self._ring, self._process = ring, process
                if self._ending:  # close() may have seen the old one only
                    continue
                self._await("ready", None, deadline_ns)
                return
            except ChildDied as error:
                failure = str(error)
                self._failures += 1
            except (PagecheckError, OSError, ValueError) as error:
                lost = self._lost_by(error)
                if not lost.passing or clock.now_ns() >= patience_ends_ns:
                    raise lost from error
                self._pause(min(deadline_ns, patience_ends_ns))

    def _lost_by(self, error: Exception) -> ChannelLost:
        why = explain(error)
        passing = why is not None or isinstance(error, ResourceError)
        return ChannelLost(f"channel {self.index}: {why or error}", passing=passing)

    def _pause(self, deadline_ns: int) -> None:
        """Waits a moment before the next try; shorter where the coordinator closes."""
        until_ns = min(clock.now_ns() + PAUSE_NS, deadline_ns)
        while not self._ending and (left_ns := until_ns - clock.now_ns()) > 0:
            clock.sleep_s(min(left_ns, LOOK_NS) / 1e9)

    def ask_to_end(self) -> None:
        """Hangs up on the worker, so that all of them end side by side; none is replaced now."""
        self._ending = True
        self._process.hang_up()
        if self._feed is not None:
            self._feed.raise_attention()

    def wait_gone(self, deadline_ns: int) -> None:
        """Waits for the worker's end; after the deadline it is killed, but not waited for."""
        if not self._process.wait_gone(deadline_ns):
            self._process.send_signal(_signal.SIGKILL)

    def close(self, deadline_ns: int, *, in_use: bool) -> None:
        """Reaps the worker and removes every name. May be called twice.

        Args:
            deadline_ns: absolute; a worker that cannot be reaped by then is left alone.
            in_use: a thread is still inside `run`: our end of the ring is left to it.
        """
        self._ending = True
        ring, process = self._ring, self._process
        if not process.wait_gone(deadline_ns):
            process.send_signal(_signal.SIGKILL)
            log.error("channel %d: worker %d cannot be reaped", self.index, process.pid)
        process.close()
        ring.remove()
        if self._feed is not None and not in_use:
            self._feed.close()


def _same_id(known: Block, block: Block | None) -> bool:
    """Another block that had the id of this one."""
    return block is not None and known.id == block.id and known is not block
