"""Pieces checked by the workers of a Dask cluster.

Facts: Dask gives the work of a worker that dies to another one, again and again, and blames what
was merely waiting beside it, too. Each task costs its scheduler about a millisecond.
Decision: small pieces travel together, and only some batches for each thread are submitted at a
time. A batch that failed is tried again at the end, with nothing beside it, then each of its pieces
alone, so that only a piece that is at fault becomes an error. An answer counts where its batch is
still waited for, so that each piece counts once.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck import clock
from pagecheck.coordinator.settings import check_channels, usable_cpus
from pagecheck.errors import EngineError, PeerError, UsageError
from pagecheck.survey.scheduler import Connection
from pagecheck.survey.values import Failed, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pagecheck.survey.scheduler import Answer
    from pagecheck.survey.values import Found, Piece, Target

WORKERS_MAX: Final = 256
PIECE_BYTES: Final = 4 << 30  # for as few tasks as there are at least seconds of work
LOCAL_PIECE_BYTES: Final = 1 << 30
BATCH_BYTES: Final = 1 << 30
BYTES_OF_A_FILE: Final = 2 << 20  # could be checked in the time that a file takes beside its data
AHEAD: Final = 3  # batches for each thread, one of which it works at
SHARE: Final = 8  # a batch is at most this part of what each thread has had, until it is large
SEEN: Final = 16  # files that are looked for on every worker before the start
TRIES: Final = 3
FAILURES_MAX: Final = 24  # new batches in a row; then it is not their fault
SILENCE_S: Final = 600.0
_DEFAULTS: Final = Options()


class ClusterRunner:
    """Checks pieces by a Dask cluster; a context manager that leaves it as it was.

    Attributes:
        options: how it checks them.
        piece_bytes: how much of a file goes to one worker at a time.
        here: this process does not open the files.
    """

    here = False

    def __init__(
        self,
        options: Options = _DEFAULTS,
        *,
        cluster: str | None = None,
        workers: int | None = None,
        channels: int | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            cluster: the address of a Dask scheduler, such as tcp://HOST:8786.
            workers: instead of it, how many workers are started on this machine.
            channels: of each worker's thread; by default 1, of local workers the CPUs divided.

        Raises:
            UsageError: not one of the two, or a number is out of range.
        """
        if (cluster is None) == (workers is None):
            raise UsageError("a cluster is either a Dask scheduler's address or local workers")
        if cluster is not None and not cluster.strip():
            raise UsageError("the address of the Dask scheduler is empty; write tcp://HOST:PORT")
        if workers is not None and not 1 <= workers <= WORKERS_MAX:
            raise UsageError(f"workers {workers}: not in 1 to {WORKERS_MAX}")
        if channels is None:
            channels = 1 if workers is None else max(1, usable_cpus() // workers)
        check_channels(channels)
        self.options = options
        self.piece_bytes = PIECE_BYTES if workers is None else LOCAL_PIECE_BYTES
        self._local = workers is not None
        self._connection = Connection(options, channels, cluster, workers or 0)

    @property
    def channels(self) -> int:
        """How many pieces are checked at a time."""
        return self._connection.threads

    @property
    def name(self) -> str:
        """Which cluster, and how many workers it has."""
        workers = f"{self._connection.workers} worker{'' if self._connection.workers == 1 else 's'}"
        return f"{workers} of Dask" + ("" if self._local else f" at {self._connection.address}")

    def run(self, pieces: Iterable[Piece], watch: Callable[[], None]) -> Iterator[Found | Failed]:
        """Checks all of them.

        Args:
            pieces: taken as they are needed.
            watch: called about ten times a second; what it raises ends the run.

        Yields:
            One answer for each piece, as they come.

        Raises:
            PagecheckError: it cannot go on: the scheduler is gone, or no worker can check.
        """
        left = iter(pieces)
        first = list(islice(left, SEEN))
        if first:
            self._connection.begin(_to_be_seen(first), watch)
            patience_s = SILENCE_S
            if self.options.max_rate is not None:  # each thread has its share of it
                patience_s += self.piece_bytes * self.channels / self.options.max_rate
            yield from _Run(self._connection, chain(first, left), watch, patience_s).answers()

    def __enter__(self) -> ClusterRunner:
        try:
            self._connection.open()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()


def _to_be_seen(pieces: Iterable[Piece]) -> list[Target]:
    return list(dict.fromkeys(each.target for each in pieces if each.target.kind != "object"))


class _Batch(NamedTuple):
    """Pieces that travel together.

    Attributes:
        failures: how often there was no answer.
        avoid: addresses of workers that could not check them.
    """

    pieces: tuple[Piece, ...]
    failures: int = 0
    avoid: frozenset[str] = frozenset()


class _Run:
    """All batches of a survey."""

    def __init__(
        self,
        connection: Connection,
        pieces: Iterator[Piece],
        watch: Callable[[], None],
        patience_s: float,
    ) -> None:
        self._connection = connection
        self._pieces = pieces
        self._watch = watch
        self._patience_s = patience_s
        self._out: dict[int, _Batch] = {}
        self._suspects: deque[_Batch] = deque()
        self._submitted = 0
        self._submitted_bytes = 0
        self._failures = 0  # since the last answer

    def answers(self) -> Iterator[Found | Failed]:
        """One for each piece."""
        while self._fill():
            answer = self._next()
            if answer is None:
                yield from self._abandoned()
                continue
            batch = self._out.pop(answer.number, None)
            if batch is None:
                continue
            found = answer.found
            if found is None or len(found) != len(batch.pieces):
                yield from self._failed(batch, answer)
                continue
            self._failures = 0
            for each, piece in zip(found, batch.pieces, strict=True):
                yield each._replace(piece=piece)

    def _fill(self) -> bool:
        """Submits what there is room for. False: everything is answered."""
        while len(self._out) < AHEAD * max(1, self._connection.threads):
            pieces = tuple(self._batch())
            if not pieces:
                break
            self._submit(_Batch(pieces))
        if not self._out and self._suspects:
            self._submit(self._suspects.popleft())
        return bool(self._out)

    def _batch(self) -> Iterator[Piece]:
        """The pieces of the next batch: few at first, so that each thread has some."""
        share = self._submitted_bytes // (SHARE * max(1, self._connection.threads))
        room = min(BATCH_BYTES, share)
        for piece in self._pieces:
            yield piece
            cost = _cost(piece)
            self._submitted_bytes += cost
            room -= cost
            if room <= 0:
                return

    def _submit(self, batch: _Batch) -> None:
        self._submitted += 1
        self._out[self._submitted] = batch
        self._connection.submit(self._submitted, batch.pieces, batch.avoid)

    def _next(self) -> Answer | None:
        """The next answer; None where none has come for too long."""
        until = clock.now_s() + self._patience_s
        while clock.now_s() < until:
            answer = self._connection.next()
            self._watch()
            if answer is not None:
                return answer
        return None

    def _failed(self, batch: _Batch, answer: Answer) -> Iterator[Failed]:
        """What becomes of a batch without an answer."""
        if batch.failures == 0:  # else it may well be its own fault
            self._failures += 1
        if self._failures >= max(FAILURES_MAX, AHEAD * self._connection.threads):
            raise EngineError(f"{self._connection.address}: no worker can check: {answer.error}")
        failures = batch.failures + 1
        avoid = batch.avoid | ({answer.worker} if answer.worker is not None else set())
        if len(batch.pieces) == 1 and failures >= TRIES:
            yield Failed(batch.pieces[0], _after_tries(answer))
        elif failures == TRIES - 1:  # it was alone
            self._suspects.extend(_Batch((each,), failures, avoid) for each in batch.pieces)
        else:
            self._suspects.append(_Batch(batch.pieces, failures, avoid))

    def _abandoned(self) -> Iterator[Failed]:
        """No worker answers: where all of them should have, there is nothing to wait for."""
        seconds = f"{self._patience_s:.0f} s"
        if len(self._out) >= max(2, self._connection.threads):
            raise PeerError(f"{self._connection.address}: no worker has answered for {seconds}")
        abandoned, self._out = self._out, {}
        for number, batch in abandoned.items():
            self._connection.drop(number)
            if len(batch.pieces) == 1:
                yield Failed(batch.pieces[0], f"its worker has not answered for {seconds}")
            else:
                self._suspects.extend(_Batch((each,), TRIES - 1) for each in batch.pieces)


def _after_tries(answer: Answer) -> str:
    if answer.died:
        return f"each worker that checked it died, {TRIES} times"
    return answer.error


def _cost(piece: Piece) -> int:
    """What a piece takes, as bytes that are read in that time."""
    allocated = piece.target.allocated
    data = piece.length if allocated is None else min(piece.length, allocated)
    return data + BYTES_OF_A_FILE
