"""Pieces checked on this machine: a thread, a coordinator and a worker for each CPU.

Facts: most of a large file's time is its worker's, most of a tiny one's is Python's. Decision: each
thread has a coordinator of one channel, so that no file waits for another one's, and a worker that
was started stays for all files; what is large comes in pieces, of which every thread takes some.
A thread that waits for a file system is left to it, and another one takes its place; where none
answers, nothing more is tried.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from itertools import islice
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.child.signals import signals_held
from pagecheck.coordinator.settings import check_channels, default_channels
from pagecheck.errors import EngineError, ResourceError
from pagecheck.shortage import no_thread
from pagecheck.survey.check import Checker, attempt
from pagecheck.survey.values import Failed, Found, Options, one_line, why_stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pagecheck.survey.values import Piece

PIECE_BYTES: Final = 1 << 30
AHEAD: Final = 8  # pieces that wait for each thread
WATCH_S: Final = 0.1
END_S: Final = 1.5

_DEFAULTS: Final = Options()


class LocalRunner:
    """Checks pieces by the CPUs of this machine; a context manager that ends all of it.

    Attributes:
        options: how they are checked.
        channels: how many are checked at a time.
        piece_bytes: how much of a file goes to one thread at a time.
    """

    piece_bytes = PIECE_BYTES
    here = True

    def __init__(
        self,
        options: Options = _DEFAULTS,
        channels: int | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            channels: how many pieces are checked at a time; by default one per usable CPU.
            patience_s: a thread that makes no progress so long waits for a file system, and is
                left to it; None: none does.

        Raises:
            UsageError: it is out of range.
        """
        self.options = self._each = options
        self.channels = default_channels() if channels is None else channels
        check_channels(self.channels)
        self._patience_s = patience_s
        self._stalled = 0  # pieces since the last answer
        self._threads: list[_Thread] = []
        self._pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Found | Failed | BaseException] = queue.SimpleQueue()

    @property
    def name(self) -> str:
        """How many channels there are."""
        return f"{self.channels} channel{'' if self.channels == 1 else 's'}"

    def run(self, pieces: Iterable[Piece], watch: Callable[[], None]) -> Iterator[Found | Failed]:
        """Checks all of them.

        Args:
            pieces: taken as they are needed.
            watch: called about ten times a second; what it raises ends the run.

        Yields:
            One answer for each piece, as they come.

        Raises:
            PagecheckError: it cannot go on: no worker is left, or there is a shortage.
        """
        left = iter(pieces)
        first = list(islice(left, self.channels))
        self._start(len(first))
        waiting = dict.fromkeys(first)  # in their order
        for piece in first:
            self._pieces.put(piece)
        while waiting:
            for piece in islice(left, AHEAD * self.channels - len(waiting)):
                self._pieces.put(piece)
                waiting[piece] = None
            result = self._next(watch)
            del waiting[result.piece]
            yield result
            self._stalled = 0 if isinstance(result, Found) else self._stalled
            if self._stalled >= 2 * len(first):  # those that took a stuck one's place, too
                yield from self._last_answers(waiting)
                for piece in (*waiting, *left):
                    why = why_stalled(self._patience_s or 0.0)
                    yield Failed(piece, f"not tried, since {why}")
                return

    def _start(self, count: int) -> None:
        if self.options.max_rate is not None and count:
            share = max(self.options.max_rate // count, 1)
            self._each = self.options._replace(max_rate=share)
        for number in range(count):
            try:
                self._threads.append(self._started(number))
            except RuntimeError as error:  # fewer threads do the same work
                if not self._threads:
                    raise no_thread("a survey", error) from error
                return

    def _started(self, number: int) -> _Thread:
        thread = _Thread(number, self._each, self._pieces, self._results)
        thread.reports = self._patience_s is not None
        with signals_held():
            thread.start()
        return thread

    def _next(self, watch: Callable[[], None]) -> Found | Failed:
        while True:
            if self._patience_s is not None:
                self._leave_stuck(self._patience_s)
            try:
                result = self._results.get(timeout=WATCH_S)
            except queue.Empty:
                watch()
                continue
            watch()
            if isinstance(result, BaseException):
                raise result
            return result

    def _leave_stuck(self, patience_s: float) -> None:
        """Replaces threads that wait for a file system; the piece of each has its answer then."""
        for number, thread in enumerate(self._threads):
            if thread.waits(patience_s) and (piece := thread.leave()) is not None:
                self._stalled += 1
                self._results.put(Failed(piece, why_stalled(patience_s)))
                with contextlib.suppress(RuntimeError):  # then the others do its work
                    self._threads[number] = self._started(number)

    def _last_answers(self, waiting: dict[Piece, None]) -> Iterator[Found | Failed]:
        """Those that have come, and no more; pieces without one stay in `waiting`."""
        for thread in self._threads:
            thread.leave()
        while not self._results.empty():
            result = self._results.get()
            if not isinstance(result, BaseException):
                del waiting[result.piece]
                yield result

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *_error: object) -> None:
        ends = [threading.Thread(target=each.end, daemon=True) for each in self._threads]
        until = clock.now_s() + END_S
        for each in ends:
            each.start()
        for thread in (*ends, *self._threads):
            thread.join(max(0.0, until - clock.now_s()))


class _Thread(threading.Thread):
    """Takes pieces until there are no more; its coordinator is its own.

    Attributes:
        reports: somebody asks whether it waits.
    """

    reports = False

    def __init__(
        self,
        number: int,
        options: Options,
        pieces: queue.SimpleQueue[Piece | None],
        results: queue.SimpleQueue[Found | Failed | BaseException],
    ) -> None:
        super().__init__(name=f"pagecheck-survey-{number}", daemon=True)
        self._number = number
        self._options = options
        self._pieces = pieces
        self._results = results
        self._checker: Checker | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._piece: Piece | None = None
        self._moves = self._seen = 0
        self._idle = clock.Elapsed(int(WATCH_S * 1e9))

    def run(self) -> None:
        """Checks pieces; an error that is not a file's is passed on, and ends it."""
        try:
            while (piece := self._pieces.get()) is not None and not self._ended:
                self._piece = piece
                self._moved()
                result = self._check(piece)
                if self._taken() is None:
                    return
                self._results.put(result)
        except BaseException as error:
            if not self._ended:
                self._results.put(error)
        finally:
            self._close()

    def _check(self, piece: Piece) -> Found | Failed:
        """Checks a piece, once more with new workers where they were at fault."""
        if self._checker is not None:
            try:
                result = self._attempt(self._checker, piece)
            except (EngineError, ResourceError):
                if self._ended:
                    raise
            else:
                if not self._checker.is_lost:
                    return result
            self._close()
        checker = self._checker = Checker(self._options, queue=self._number)
        if self._ended:
            checker.close()
        try:
            return self._attempt(checker, piece)
        except (EngineError, ResourceError) as error:
            if self._ended:
                raise
            return Failed(piece, one_line(error, piece.target.path))

    def _attempt(self, checker: Checker, piece: Piece) -> Found | Failed:
        return attempt(checker, piece, self._moved if self.reports else None)

    def _moved(self) -> None:
        self._moves += 1

    def waits(self, patience_s: float) -> bool:
        """Whether it made no progress for so long; asked several times a second."""
        if self._piece is None or self._moves != self._seen:
            self._seen = self._moves
            self._idle.restart()
            return False
        return self._idle.sample() >= patience_s * 1e9

    def leave(self) -> Piece | None:
        """The piece that it has no answer for, which is the caller's now; it takes no other."""
        piece = self._taken()
        self._ended = self._ended or piece is not None
        return piece

    def _taken(self) -> Piece | None:
        """Its piece, for the one who is first to ask."""
        with self._lock:
            piece, self._piece = self._piece, None
        return piece

    def _close(self) -> None:
        checker, self._checker = self._checker, None
        if checker is not None:
            checker.close()

    def end(self) -> None:
        """Ends its work early."""
        self._ended = True
        self._pieces.put(None)
        checker = self._checker
        if checker is not None:
            checker.close()
