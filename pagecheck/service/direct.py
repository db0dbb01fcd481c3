"""A direct channel: a ring that a VMM's own thread submits to, and the worker behind it.

Facts: the ring's memory is the VMM's, so what is in it is hostile; only its own worker reads it,
and what is known of that worker comes from its control segment and from the kernel. Decision: a
worker that dies or makes no progress, also while it is idle, is not replaced: the ring is marked as
gone, threads that wait on it are woken, and the VMM may open another channel.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.child.process import ChildDied, ChildSilent
from pagecheck.child.signals import signals_held
from pagecheck.child.watch import Watch, reply_limit, start_limit
from pagecheck.coordinator.settings import Settings
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError
from pagecheck.native import Feed, _native
from pagecheck.shm.layout import CONTROL, segment_bytes
from pagecheck.shm.ring import read_statistics
from pagecheck.shm.segments import Memfd

if TYPE_CHECKING:
    from pagecheck.child.watch import IsOver
    from pagecheck.coordinator.block import Block

FAR_NS: Final = 1 << 62
END_NS: Final = 1_000_000_000
LOOK_NS: Final = 100_000_000  # between two checks of the workers of direct channels
IDLE_NS: Final = 5_000_000_000  # an idle worker counts up every second
STARTS_MAX: Final = 5  # workers that die before they are ready, until the channel is refused

log = logging.getLogger(__name__)


class DirectChannel:
    """One ring in a sealed memfd, and its worker.

    Attributes:
        number: its client's number for it.
        fd: the ring's memory, for the client.
        size: bytes of it.
        engine, kernel, queue: what the worker decides with; no queue is None.
        replaced: workers that died while it was opened.
        on_lost: called when the worker died or hung.
    """

    def __init__(
        self,
        number: int,
        worker: int,
        settings: Settings,
        slots: int,
        slot_pages: int,
        spin_us: int,
        blocks: Mapping[int, Block] | None = None,
    ) -> None:
        """Starts the worker and waits until it is ready and knows the blocks. One that is killed
        meanwhile is replaced.

        Args:
            worker: a number of its own among the service's workers; queues are taken by it.
            spin_us: the worker polls for work this long before every sleep.
            blocks: those of its client, by their numbers.

        Raises:
            EngineError: the worker does not start.
            ResourceError: memory is short.
        """
        self.number = number
        self.size = segment_bytes(slots, slot_pages)
        self.is_gone = False
        self.replaced = 0
        self.on_lost: Callable[[], None] | None = None
        self._settings = settings
        self._lock = threading.Lock()  # one thread at a time uses its socket
        self._watch: Watch | None = None  # over all of its time
        self._in_progress: Watch | None = None  # while it has a batch
        self._ring = Memfd("pagecheck-channel", self.size)
        self._control = Memfd("pagecheck-control", _native.CONTROL_BYTES)
        self._process: WorkerProcess | None = None
        self._feed: Feed | None = None
        try:
            message = settings.message(replacement=False) | {"spin_ns": spin_us * 1000}
            reply = self._started(worker, message, (slots, slot_pages), blocks or {})
        except BaseException:
            self.close()
            raise
        self.engine: str = reply.get("engine", "cpu")
        self.kernel: str | None = reply.get("kernel")
        self.queue: str | None = reply.get("queue")

    def _started(
        self,
        worker: int,
        message: dict[str, object],
        shape: tuple[int, int],
        blocks: Mapping[int, Block],
    ) -> dict[str, Any]:
        """The worker's message when it is ready; where it dies meanwhile another takes its place,
        on the same ring: no client has seen it yet."""
        self._ring.seal(read_only=False)
        for left in reversed(range(STARTS_MAX)):
            os.pwrite(self._control.fd, bytes(_native.CONTROL_BYTES), 0)
            _native.segment_format(self._ring.fd, *shape, 1)
            self._feed = Feed(self._ring.fd, self._control.fd)
            try:
                with signals_held():
                    self._process = WorkerProcess(worker)
                self._process.open(self, message)
                reply = self._reply("ready", start_limit())
                for number, block in blocks.items():
                    self._attach(number, block)
                return reply
            except ChildDied as error:
                if not left or isinstance(error, ChildSilent):
                    raise EngineError(f"channel {self.number}: {error}") from error
                log.warning("direct channel %d: %s; trying again", self.number, error)
                self.replaced += 1
            self._feed.close()
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.close()
        raise AssertionError("the last try returns or raises")

    @property
    def fd(self) -> int:
        """The ring's descriptor."""
        return self._ring.fd

    @property
    def control_fd(self) -> int:
        """The control segment's descriptor."""
        return self._control.fd

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid if self._process is not None else 0

    def attach(self, number: int, block: Block) -> None:
        """Makes a block known to the worker under its client's number.

        Raises:
            EngineError: the worker is gone; so is the channel then.
        """
        self._or_end(lambda: self._attach(number, block))

    def detach(self, number: int) -> None:
        """Makes the worker unmap and close a block; raises as `attach`."""
        self._or_end(lambda: self._exchange("detached", {"detach": {"block": number}}, ()))

    def _or_end(self, exchange: Callable[[], None]) -> None:
        try:
            exchange()
        except ChildDied as error:
            self.end(str(error))
            raise EngineError(f"channel {self.number}: {error}; open another one") from error

    def _attach(self, number: int, block: Block) -> None:
        if not block.source.is_file:
            return  # nobody verifies a channel's answers: what it asks of such a block is refused
        message = block.attach_message() | {"block": number}
        self._exchange("attached", {"attach": message}, block.source.attachment_fds)

    def _exchange(self, reply: str, message: dict[str, object], fds: tuple[int, ...]) -> None:
        """Raises ChildDied where it is gone, or does not send `reply` in time."""
        with self._lock:
            if self.is_gone or self._process is None or self._feed is None:
                raise ChildDied("its worker is gone")
            self._process.send(message, fds)
            self._feed.raise_attention()
            self._reply(reply, reply_limit(self._feed.progress, self._settings.stall_ns))

    def _reply(self, kind: str, is_over: IsOver) -> dict[str, Any]:
        assert self._process is not None
        reply = self._process.await_reply(kind, is_over, FAR_NS)
        assert reply is not None  # it is waited for until it is over
        return reply

    def statistics(self) -> list[int]:
        """The words of `layout.STATS`."""
        return read_statistics(self._control.fd)

    def supervise(self) -> None:
        """Ends the channel where its worker died or makes no progress; called every `LOOK_NS`."""
        if not self._lock.acquire(blocking=False):
            return  # it is in use or being closed at this moment
        try:
            why = self._why_failed()
            if why is not None:
                self.end(why)
        finally:
            self._lock.release()

    def _why_failed(self) -> str | None:
        if self.is_gone or self._process is None or self._feed is None:
            return None
        if not self._process.is_alive():
            return self._process.describe_end()
        stall_ns = self._settings.stall_ns
        if not self._has_batch():
            self._in_progress = None
        elif self._in_progress is None:
            self._in_progress = Watch(self._feed.progress, LOOK_NS)
        elif self._in_progress.unchanged_ns() >= stall_ns:
            return f"worker {self.pid} makes no progress with a batch"
        if self._watch is None:
            self._watch = Watch(self._activity, LOOK_NS)
        elif self._watch.unchanged_ns() >= max(stall_ns, IDLE_NS):
            return f"worker {self.pid} makes no progress"
        return None

    def _word(self, name: str) -> int:
        field = CONTROL[name]
        return field.read(
            bytes(field.offset) + os.pread(self._control.fd, field.size, field.offset)
        )

    def _has_batch(self) -> bool:
        return self._word("deciding") != 0

    def _activity(self) -> int:
        """Rises with everything that a living worker does; while it is idle once a second."""
        return self._word("progress") + self._word("looks")

    def end(self, why: str) -> None:
        """Kills the worker and wakes threads that wait on the ring. May be called twice."""
        if self.is_gone:
            return
        self.is_gone = True
        if self.on_lost is not None:
            self.on_lost()
        log.warning("direct channel %d: %s; it is gone", self.number, why)
        if self._process is not None:
            self._process.kill()
        if self._feed is not None:
            self._feed.mark_gone()

    def ask_to_end(self) -> None:
        """Hangs up on the worker, so that several end side by side; `close` follows."""
        if self._process is not None and self._feed is not None:
            self._process.hang_up()
            self._feed.raise_attention()

    def close(self) -> None:
        """Ends the worker, by force where it does not end by itself, and marks the ring as gone.
        The client's own mapping stays valid. May be called twice."""
        with self._lock:
            process, self._process = self._process, None
            feed, self._feed = self._feed, None
            self.is_gone = True
            if process is not None:
                process.hang_up()
                if feed is not None:
                    feed.raise_attention()
                if not process.wait_gone(clock.now_ns() + END_NS):
                    process.kill()
                process.close()
            if feed is not None:
                feed.mark_gone()
                feed.close()
            self._ring.close()
            self._control.close()
