"""The parts of one piece: on their way as there are slots for them, handed out as they arrive.

Danger: a thread that fills a slot after the slot was given to somebody else. Decision: whoever
writes to a slot gives it back: the thread of a part that nobody waits for any more does it itself,
whenever its library has returned.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.errors import PagecheckError, SourceError
from pagecheck.survey.stores.asking import STEP_S, read, start_thread, stopped
from pagecheck.survey.stores.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pagecheck.survey.stores.buffer import Buffer
    from pagecheck.survey.stores.patience import Patience
    from pagecheck.survey.stores.store import Store
    from pagecheck.survey.values import Piece

SLACK_S: Final = 30.0  # how much longer than it was told a library may wait
END_S: Final = 0.5  # for requests that nobody waits for any more

Ended = tuple[int, "BaseException | None"]


class Reading:
    """Reads a piece; a context manager."""

    def __init__(
        self,
        store: Store,
        name: str,
        piece: Piece,
        buffer: Buffer,
        patience: Patience,
        is_closed: Callable[[], bool],
        max_rate: int | None,
    ) -> None:
        """Starts nothing yet.

        Args:
            name: the object, as the store's library calls it.
            is_closed: whether to stop; asked several times a second.
            max_rate: bytes per second.
        """
        self._store = store
        self._name = name
        self._piece = piece
        self._buffer = buffer
        self._patience = patience
        self._is_closed = is_closed
        self._rate = max_rate
        self._next_s = clock.now_s()
        self._at = piece.start
        self._end = piece.start + piece.length
        self._parts: dict[int, Part] = {}  # by slot
        self._ends_s: dict[int, float] = {}  # by slot: when to wait no longer
        self._lock = threading.Lock()
        self._is_leaving = False
        self._is_over = False  # from now on threads give their slots back themselves
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def parts(self) -> Iterator[list[tuple[int, Part]]]:
        """The parts that have arrived, with their slots, which are used again with the next step.

        Raises:
            SourceError: one did not arrive whole.
            ResourceError: no thread can be started.
            UsageError: we were closed.
        """
        while self._at < self._end or self._parts:
            self._start()
            ended = self._next()
            arrived = [(slot, self._parts.pop(slot)) for slot, _error in ended]
            try:
                for _slot, error in ended:
                    if error is not None:
                        raise self._explained(error)
                yield arrived
            finally:
                for slot, part in arrived:
                    self._put_back(slot, part)

    def _start(self) -> None:
        """Starts as many requests as there are slots for, and as the rate allows."""
        while self._at < self._end:
            if self._parts and clock.now_s() < self._next_s:
                return
            self._pause()
            slot = self._slot()
            if slot is None:
                return
            size = min(self._buffer.part_bytes, self._end - self._at)
            target, view = self._piece.target, self._buffer.view(slot, size)
            part = Part(self._name, target.identity, target.size, self._at, view)
            try:
                start_thread(lambda slot=slot, part=part: self._read(slot, part))  # type: ignore[misc]
            except BaseException:
                self._put_back(slot, part)
                raise
            self._parts[slot] = part
            self._ends_s[slot] = clock.now_s() + self._patience.whole_s + SLACK_S
            self._at += size
            if self._rate is not None:
                self._next_s = max(self._next_s, clock.now_s()) + size / self._rate

    def _slot(self) -> int | None:
        """A slot; None where to go on with those that there are.

        Raises:
            SourceError: others have had all of them for too long.
            UsageError: we were closed.
        """
        until_s = clock.now_s() + self._patience.whole_s + SLACK_S

        def is_over() -> bool:
            return self._is_closed() or clock.now_s() > until_s

        slot = self._buffer.take(len(self._parts), is_over)
        if slot is None and not self._parts:
            if self._is_closed():
                raise stopped()
            raise SourceError(
                f"{self._piece.target.path}: waited {self._patience.whole_s:.0f} s for room: "
                "requests for other objects do not end"
            )
        return slot

    def _pause(self) -> None:
        while not self._is_closed() and (left := self._next_s - clock.now_s()) > 0:
            clock.sleep_s(min(left, STEP_S))

    def _read(self, slot: int, part: Part) -> None:
        """On a thread of its own; afterwards nobody writes to the slot."""
        error: BaseException | None = None
        try:
            read(self._store, part, self._piece.target.path, self._patience, self._is_ended)
        except BaseException as raised:
            error = raised
        with self._lock:
            if not self._is_over:
                self._ended.put((slot, error))
                return
        self._put_back(slot, part)

    def _is_ended(self) -> bool:
        return self._is_leaving or self._is_closed()

    def _next(self) -> list[Ended]:
        """Those that have ended, at least one."""
        while not self._is_closed():
            try:
                ended = [self._ended.get(timeout=STEP_S)]
                with contextlib.suppress(queue.Empty):
                    while True:
                        ended.append(self._ended.get_nowait())
                return ended
            except queue.Empty:
                if self._parts and clock.now_s() > min(self._ends_s[each] for each in self._parts):
                    raise SourceError(
                        f"{self._piece.target.path}: a part did not come within "
                        f"{self._patience.whole_s:.0f} s"
                    ) from None
        raise stopped()

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, PagecheckError | MemoryError):
            return error
        return SourceError(f"{self._piece.target.path}: {type(error).__name__}")

    def _put_back(self, slot: int, part: Part) -> None:
        part.view.release()
        self._buffer.put_back(slot)

    def __enter__(self) -> Reading:
        self._buffer.begin()
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._drain(clock.now_s() + END_S)
        finally:
            self._buffer.end()

    def _drain(self, until_s: float) -> None:
        """Waits a little for the parts that are on their way; the others' threads see to them."""
        self._is_leaving = True
        with contextlib.suppress(queue.Empty):
            while self._parts and (left := until_s - clock.now_s()) > 0:
                slot, _error = self._ended.get(timeout=left)
                self._put_back(slot, self._parts.pop(slot))
        with self._lock:
            self._is_over = True
        with contextlib.suppress(queue.Empty):
            while True:
                slot, _error = self._ended.get_nowait()
                self._put_back(slot, self._parts.pop(slot))
