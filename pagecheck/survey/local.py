"""Pieces checked on this machine: a thread, a coordinator and a worker for each CPU.

Facts: most of a large file's time is its worker's, most of a tiny one's is Python's. Decision: each
thread has a coordinator of one channel, so that no file waits for another one's, and a worker that
was started stays for all files; what is large comes in pieces, of which every thread takes some.
"""

from __future__ import annotations

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
from pagecheck.survey.values import Failed, Found, Options

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
        piece_bytes: how much of a file goes to one thread at a time.
        name: for people.
    """

    piece_bytes = PIECE_BYTES

    def __init__(self, options: Options = _DEFAULTS, channels: int | None = None) -> None:
        """Starts nothing yet.

        Args:
            channels: how many pieces are checked at a time; by default one per usable CPU.

        Raises:
            UsageError: it is out of range.
        """
        self.options = options
        self._channels = default_channels() if channels is None else channels
        check_channels(self._channels)
        self._threads: list[_Thread] = []
        self._pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Found | Failed | BaseException] = queue.SimpleQueue()

    @property
    def name(self) -> str:
        """How many channels there are."""
        return f"{self._channels} channel{'' if self._channels == 1 else 's'}"

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
        first = list(islice(left, self._channels))
        self._start(len(first))
        waiting = len(first)
        for piece in first:
            self._pieces.put(piece)
        while waiting:
            for piece in islice(left, AHEAD * self._channels - waiting):
                self._pieces.put(piece)
                waiting += 1
            yield self._next(watch)
            waiting -= 1

    def _start(self, count: int) -> None:
        options = self.options
        if options.max_rate is not None and count:
            options = options._replace(max_rate=max(options.max_rate // count, 1))
        for number in range(count):
            thread = _Thread(number, options, self._pieces, self._results)
            try:
                with signals_held():
                    thread.start()
            except RuntimeError as error:  # fewer threads do the same work
                if not self._threads:
                    raise no_thread("a survey", error) from error
                return
            self._threads.append(thread)

    def _next(self, watch: Callable[[], None]) -> Found | Failed:
        while True:
            try:
                result = self._results.get(timeout=WATCH_S)
            except queue.Empty:
                watch()
                continue
            watch()
            if isinstance(result, BaseException):
                raise result
            return result

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
    """Takes pieces until there are no more; its coordinator is its own."""

    def __init__(
        self,
        number: int,
        options: Options,
        pieces: queue.SimpleQueue[Piece | None],
        results: queue.SimpleQueue[Found | Failed | BaseException],
    ) -> None:
        super().__init__(name=f"pagecheck-survey-{number}", daemon=True)
        wq = options.wq
        self._options = options._replace(wq=wq[number % len(wq) :][:1]) if wq else options
        self._pieces = pieces
        self._results = results
        self._checker: Checker | None = None
        self._ended = False

    def run(self) -> None:
        """Checks pieces; an error that is not a file's is passed on, and ends it."""
        try:
            while (piece := self._pieces.get()) is not None and not self._ended:
                self._results.put(self._check(piece))
        except BaseException as error:
            self._results.put(error)
        finally:
            self._close()

    def _check(self, piece: Piece) -> Found | Failed:
        """Checks a piece, once more with new workers where they are at fault."""
        if self._checker is not None:
            try:
                return attempt(self._checker, piece)
            except (EngineError, ResourceError):
                if self._ended:
                    raise
                self._close()
        self._checker = Checker(self._options)
        return attempt(self._checker, piece)

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
