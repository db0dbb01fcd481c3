"""What a Dask worker does for a survey: it keeps a Checker, and answers batches of pieces.

Facts: Dask runs a task in one of the worker's threads, as many at a time as there are threads. It
tells a task neither that its client is gone nor that the worker ends. A process that
`multiprocessing` started calls no `atexit` functions, only its own finalizers.
Decision: a piece takes a Checker that is free, or makes one, so that a worker with one thread has
one. All of them end when the client says so, when the worker's process ends, or where no batch has
come for IDLE_S: the client may have been killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck import clock
from pagecheck._version import __version__
from pagecheck.errors import EngineError, PagecheckError
from pagecheck.survey import saved
from pagecheck.survey.check import Checker, attempt
from pagecheck.survey.values import Failed, identity_of, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pagecheck.survey.values import Found, Options, Piece, Target

IDLE_S: Final = 60.0
PAUSE_S: Final = 1.0  # of a thread that could not check


class Job(NamedTuple):
    """What all pieces of a survey have in common; it goes with each batch.

    Attributes:
        name: of this survey; no other one's.
        version: of the pagecheck that asks.
        options: how pieces are checked.
        channels: of each Checker; None: its own default.
        same_files: the worker is the client's own, and sees the same files.
    """

    name: str
    version: str
    options: Options
    channels: int | None
    same_files: bool


class Checkers:
    """The Checkers that this process keeps for one survey."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._free: list[Checker] = []
        self._all: list[Checker] = []
        self._made = 0
        self._used_s = clock.now_s()
        self._closed = threading.Event()
        threading.Thread(target=self._end_idle, name="pagecheck-idle", daemon=True).start()

    @contextlib.contextmanager
    def taken(self) -> Iterator[Checker]:
        """One of them, for this thread alone; where that raises, or its workers are lost, it is not
        used again."""
        checker = self._take()
        usable = False
        try:
            yield checker
            usable = not checker.is_lost
        finally:
            self._release(checker, usable=usable)

    def _release(self, checker: Checker, *, usable: bool) -> None:
        with self._lock:
            self._used_s = clock.now_s()
            if usable:
                self._free.append(checker)
                return
            with contextlib.suppress(ValueError):
                self._all.remove(checker)
        checker.close()

    def _take(self) -> Checker:
        with self._lock:
            if self._free:
                return self._free.pop()
            number = self._made
            self._made += 1
        # Other processes of this machine may be workers, too, and know nothing of this one.
        queue = os.getpid() + number * (self._job.channels or 1)
        made = Checker(self._job.options, self._job.channels, queue=queue)
        with self._lock:
            if not self._closed.is_set():
                self._all.append(made)
                return made
        made.close()
        raise _over()

    def close(self) -> None:
        """Ends them all; a check that is in progress raises."""
        self._closed.set()
        self._end_all()

    def _end_all(self, *, only_idle: bool = False) -> None:
        with self._lock:
            used = len(self._free) < len(self._all) or clock.now_s() - self._used_s < IDLE_S
            if only_idle and used:
                return
            checkers, self._all, self._free = self._all, [], []
        for each in checkers:
            each.close()

    def _end_idle(self) -> None:
        while not self._closed.wait(IDLE_S / 2):
            self._end_all(only_idle=True)


_surveys: dict[str, Checkers] = {}
_ended: set[str] = set()
_lock = threading.Lock()


def answer(job: Job, pieces: Sequence[Piece]) -> list[Found | Failed]:
    """Checks a batch; called by Dask.

    Returns:
        An answer for each piece, in their order.

    Raises:
        PagecheckError: the worker that its attribute `worker` names cannot; another one may. It
            comes after a pause: who fails at once would get all that others have no time for.
    """
    try:
        checkers = _checkers(job)
        return [_answer(job, checkers, piece) for piece in pieces]
    except PagecheckError as error:
        _sign(error)
        if job.name not in _ended:
            clock.sleep_s(PAUSE_S)
        raise


def _sign(error: PagecheckError) -> None:
    """Lets an error say which worker it comes from."""
    with contextlib.suppress(ImportError, ValueError):  # not in a Dask worker
        import distributed

        error.__dict__["worker"] = distributed.get_worker().address


def _answer(job: Job, checkers: Checkers, piece: Piece) -> Found | Failed:
    """Checks a piece, once more with new workers where it has lost those that others had, too."""
    why = None if job.same_files else why_another(piece.target)
    if why is not None:
        return Failed(piece, why)
    with checkers.taken() as checker:
        result = attempt(checker, piece)
        if not checker.is_lost:
            return result
    with checkers.taken() as checker:
        return attempt(checker, piece)


def _checkers(job: Job) -> Checkers:
    if job.version != __version__:  # of a worker that has joined later
        raise EngineError(f"{os.uname().nodename}: has pagecheck {__version__}, not {job.version}")
    with _lock:
        if job.name in _ended:
            raise _over()
        if job.name not in _surveys:
            _surveys[job.name] = Checkers(job)
        return _surveys[job.name]


def why_another(target: Target) -> str | None:
    """Why this machine has not the file that was found; None: it has. What a store has is the same
    for all."""
    host = os.uname().nodename
    if target.kind == "object":
        return None
    try:
        here = _identity(target)
    except OSError as error:
        return f"not as it was found, on worker {host}: {error.strerror}"
    except PagecheckError as error:
        return f"not as it was found, on worker {host}: {one_line(error, target.path)}"
    if here == target.identity:
        return None
    return f"is another file on worker {host}, or was written or replaced since it was found"


def _identity(target: Target) -> str:
    if target.kind == "snapshot":
        return saved.target(target.path).identity
    return identity_of(os.stat(target.path))


async def begin(job: Job, targets: Sequence[Target]) -> list[str | None]:
    """Makes a worker ready, before its first batch; called by Dask in the worker's event loop.

    Returns:
        For each target why it is another file here, or None.

    Raises:
        PagecheckError: pagecheck cannot check here.
    """
    return await asyncio.to_thread(_begin, job, targets)


def _begin(job: Job, targets: Sequence[Target]) -> list[str | None]:
    with _checkers(job).taken():
        return [None if job.same_files else why_another(each) for each in targets]


async def end(name: str) -> None:
    """Ends what this worker keeps for a survey; called by Dask in the worker's event loop."""
    with _lock:
        _ended.add(name)
        checkers = _surveys.pop(name, None)
    if checkers is not None:
        await asyncio.to_thread(checkers.close)


def _end_all() -> None:
    with _lock:
        checkers = list(_surveys.values())
        _surveys.clear()
    for each in checkers:
        each.close()


def _over() -> EngineError:
    return EngineError("the survey has ended")


Finalize(None, _end_all, exitpriority=100)
