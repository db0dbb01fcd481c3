"""The DSA engine of one worker: which queue it takes, and what is done when the queue fails.

Facts: a queue can be gone for a moment (disabled and enabled again) or for good; one that others
keep busy answers late; one that was enabled again may have other limits; and a wedged device blocks
the thread that drains it for ever. A queue that is full is not abandoned: it pauses in the C core.
Decision: the CPU continues to decide pages whatever happens here. A queue that was abandoned is
drained first, then looked up and opened again, for as long as the worker lives, after a pause that
doubles from try to try. Each try may cost a batch its whole deadline, so the pauses of a queue that
loses or corrupts records grow much longer than those of one that is only busy or absent. One that
does not drain is not used again.

Source: QEMU's series, which opens at set-up, starts, stops and cleans up for sender and receiver.
"""

from __future__ import annotations

import errno
import os

from pagecheck import clock
from pagecheck.errors import EngineError, UsageError
from pagecheck.hw.presence import DEVICES, why_no_device
from pagecheck.native import _native

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.hw import wq
    from pagecheck.hw.devices import WorkQueue
    from pagecheck.native import Worker

NEVER_NS: Final = 1 << 62
DRAIN_NS: Final = 5_000_000_000  # a queue that takes longer to drain counts as wedged
FIRST_PAUSE_NS: Final = 10_000_000
PAUSE_MAX_NS: Final = 10_000_000_000  # of a queue that is busy or absent
FAILING_PAUSE_MAX_NS: Final = 300_000_000_000  # of one that loses records or answers with errors
LOOK_NS: Final = 5_000_000  # between two checks of a queue that drains
STEADY_NS: Final = 10_000_000_000  # after this long the pauses of a queue start anew
ENTRIES_MAX: Final = 4096  # more than any device has for all its queues
_ONLY_NAMED: Final = "takes no batches through a portal; name it with --wq to use it nevertheless"
_FAILING: Final = (_native.QUEUE_LOST, _native.QUEUE_BROKEN, _native.QUEUE_REFUSED)
_MODEL_SUBMIT: Final = {"shared": "enqcmd", "dedicated": "movdir64b", "write": "write"}


class Picked:
    """What a worker decides its pages with.

    Attributes:
        engine: "dsa" or "cpu".
        queue: the queue as users name it, or None.
        submit: "enqcmd", "movdir64b" or "write", or None.
        why: one line: why this one.
    """

    __slots__ = ("engine", "queue", "submit", "why")

    def __init__(self, engine: str, queue: str | None, submit: str | None, why: str) -> None:
        self.engine = engine
        self.queue = queue
        self.submit = submit
        self.why = why

    def to_json(self) -> dict[str, str | None]:
        """As members of a message."""
        return {name: getattr(self, name) for name in self.__slots__}


class DsaEngine:
    """A worker's queue: `open` at set-up, `tend` between batches, `stop` at the end."""

    def __init__(self, worker: Worker, deadline_ns: int) -> None:
        """Opens nothing yet.

        Args:
            deadline_ns: nanoseconds from a submission to its last record.
        """
        self._worker = worker
        self._deadline_ns = deadline_ns
        self._queue: WorkQueue | wq.Model | None = None
        self._opened = 0
        self._named = True
        self._up_since_ns = 0
        self._down_since_ns = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._refused = False  # the last try to open it

    @property
    def is_running(self) -> bool:
        """Whether the next batch goes to the device: asked of the queue itself."""
        return self._worker.queue_state()[0] == _native.QUEUE_UP

    def open(self, engine: str, wqs: list[str], index: int, *, fallback: bool) -> Picked:
        """Takes a queue, those of this CPU's NUMA node first, starting with the index-th.

        Args:
            engine: "dsa", "auto" or "cpu".
            wqs: what the user named; empty: every usable queue of this host.
            index: of this worker's channel.
            fallback: with engine "dsa": the CPU decides where no queue can be had.

        Raises:
            EngineError: engine "dsa" without a usable queue and without `fallback`.
            UsageError: a name is invalid.
        """
        if engine == "cpu":
            return Picked("cpu", None, None, "asked for")
        try:
            return self._open_one(wqs, index, explicit=engine == "dsa")
        except EngineError as error:
            if engine == "auto":
                return Picked("cpu", None, None, str(error))
            why = f"cannot initialise DSA: {error}"
            if not fallback:
                raise EngineError(why) from error
            return Picked("cpu", None, None, why)

    def _open_one(self, wqs: list[str], index: int, *, explicit: bool) -> Picked:
        if not wqs and not os.path.isdir(DEVICES):  # as nearly everywhere: nothing more is loaded
            raise EngineError(why_no_device(DEVICES))
        from pagecheck.hw import wq

        failures: list[str] = []
        for queue in _in_order(_named(wqs) if wqs else _discovered(), index):
            name = queue.text if isinstance(queue, wq.Model) else queue.path
            try:
                submit = self._open_now(queue, named=bool(wqs))
            except (OSError, EngineError) as error:
                failures.append(f"{name}: {_reason(error)}")
                busy = isinstance(error, OSError) and error.errno == errno.EBUSY
                if busy and self._queue is None:
                    self._queue = queue  # `tend` tries again, if the CPU takes its place
                if wqs and explicit and not busy:
                    break  # it was named, so it must work
                continue
            self._queue = queue
            self._up_since_ns = clock.now_ns()
            return Picked("dsa", name, submit, "named with --wq" if wqs else "found")
        raise EngineError("; ".join(failures or [_why_none()]))

    def _open_now(self, queue: WorkQueue | wq.Model, *, named: bool) -> str:
        """Opens it and returns how descriptors are submitted; what was found and not named must
        take batches through its portal."""
        from pagecheck.hw import wq

        if isinstance(queue, wq.Model):
            submit = _MODEL_SUBMIT[queue.mode]
            self._open_model(queue)
        else:
            if queue.unusable is not None:
                raise EngineError(queue.unusable)
            if not named and (queue.submit == "write" or not queue.batches):
                raise EngineError(_ONLY_NAMED)
            submit = self._open_node(queue, named=named)
        self._opened += 1
        self._named = named
        return submit

    def _open_model(self, model: wq.Model) -> None:
        try:
            self._worker.open_model(
                model.mode,
                model.size,
                model.threshold,
                model.batch,
                model.transfer,
                model.version,
                (model.seed + self._opened) % (1 << 64),
                model.faults,
                model.delay * 1000,
                model.engines,
                bool(model.prs),
                bool(model.ats),
                self._deadline_ns,
            )
        except ValueError as error:  # its name is invalid: the CPU must not take its place
            from pagecheck.hw import wq

            raise wq.refused(model, error) from error

    def _open_node(self, queue: WorkQueue, *, named: bool) -> str:
        """The kernel says at mmap whether the portal may be mapped; if not, write(2) remains."""
        from pagecheck.hw.queues import open_state

        fd = os.open(queue.path, os.O_RDWR | os.O_CLOEXEC)
        state_fd = open_state(queue)
        submit = queue.submit or "write"
        size = min(queue.threshold if queue.mode == "shared" else queue.size, ENTRIES_MAX)
        batch = queue.max_batch if queue.batches else 0
        more = (queue.max_transfer, self._deadline_ns, state_fd)
        try:
            try:
                self._worker.open_queue(fd, submit, size, batch, *more)
            except PermissionError as error:
                if submit == "write":
                    raise
                if not named:
                    raise EngineError(f"mapping it is not permitted; {_ONLY_NAMED}") from error
                submit = "write"
                batch = batch if queue.version >= 0x200 else 0
                self._worker.open_queue(fd, submit, size, batch, *more)
        finally:
            os.close(fd)  # the portal has duplicates
            if state_fd >= 0:
                os.close(state_fd)
        return submit

    def tend(self) -> int:
        """Drains and reopens a queue that was abandoned; never blocks.

        Returns:
            The absolute time at which it is to be called again.
        """
        if self._queue is None:
            return NEVER_NS
        state, end, _ = self._worker.queue_state()
        now = clock.now_ns()
        if state == _native.QUEUE_UP:
            return NEVER_NS
        if not self._down_since_ns:
            if now - self._up_since_ns > STEADY_NS:
                self._pause_ns = FIRST_PAUSE_NS
            self._down_since_ns = now
        if state == _native.QUEUE_DRAINING:
            wedged = now - self._down_since_ns > DRAIN_NS
            return NEVER_NS if wedged else now + LOOK_NS  # it is checked once a second anyway
        retry_at = self._down_since_ns + self._pause_now_ns(end)
        return retry_at if now < retry_at else self._reopen(now, end)

    def _pause_now_ns(self, end: int) -> int:
        """Why it was abandoned is known only once it has drained: lost records may be late."""
        failing = end in _FAILING and not self._refused
        return min(self._pause_ns, FAILING_PAUSE_MAX_NS if failing else PAUSE_MAX_NS)

    def _reopen(self, now: int, end: int) -> int:
        assert self._queue is not None
        self._pause_ns = min(self._pause_ns * 2, FAILING_PAUSE_MAX_NS)
        self._down_since_ns = now
        try:
            self._queue = _again(self._queue)
            self._open_now(self._queue, named=self._named)
        except (OSError, EngineError, UsageError):  # a model refuses also when memory is short
            self._refused = True
            return now + self._pause_now_ns(end)
        self._refused = False
        self._up_since_ns = now
        self._down_since_ns = 0
        return NEVER_NS

    def stop(self) -> None:
        """Releases the queue; it drains by itself. What was in flight is decided already."""
        self._worker.close_queue()
        self._queue = None


def _again(queue: WorkQueue | wq.Model) -> WorkQueue | wq.Model:
    """The same queue as it is now: who disabled and enabled it may have changed its limits."""
    from pagecheck.hw import wq

    if isinstance(queue, wq.Model):
        return queue
    from pagecheck.hw.queues import find_queue

    return find_queue(queue.path)


def _named(wqs: list[str]) -> list[WorkQueue | wq.Model]:
    from pagecheck.hw import wq

    found: list[WorkQueue | wq.Model] = []
    for text in wqs:
        parsed = wq.parse(text)
        if isinstance(parsed, str):
            from pagecheck.hw.queues import find_queue

            found.append(find_queue(parsed))
        else:
            found.append(parsed)
    return found


def _discovered() -> list[WorkQueue | wq.Model]:
    from pagecheck.hw.queues import usable_queues

    return list(usable_queues())


def _why_none() -> str:
    from pagecheck.hw.queues import list_devices

    if not list_devices():
        return why_no_device(DEVICES)
    return "no work queue is usable and takes batches, 'pagecheck devices' says why"


def _in_order(queues: list[WorkQueue | wq.Model], index: int) -> list[WorkQueue | wq.Model]:
    """Round robin from the index-th on, those of this CPU's node before the others."""
    node = -1
    if any(isinstance(queue, tuple) and getattr(queue, "numa_node", -1) >= 0 for queue in queues):
        node = _native.numa_node()
    near = [queue for queue in queues if getattr(queue, "numa_node", -1) in (-1, node)]
    far = [queue for queue in queues if queue not in near]
    ordered: list[WorkQueue | wq.Model] = []
    for group in (near, far):
        start = index % len(group) if group else 0
        ordered += group[start:] + group[:start]
    return ordered


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno == errno.EBUSY:
            return "in use by another process (a dedicated queue serves one); use a shared queue"
        return error.strerror or str(error)
    return str(error)
