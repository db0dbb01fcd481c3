"""The connection to a Dask scheduler, in a thread with an event loop of its own.

Facts: a Dask client that loses its scheduler connects again and forgets what it asked for; that a
scheduler is frozen it does not notice at all. The main thread must stay free for signals.
Decision: nothing of Dask is called outside of the loop. The main thread takes answers from a queue
and never waits without a limit; the scheduler is asked every PULSE_S whether it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import uuid
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck import clock
from pagecheck._version import __version__
from pagecheck.child.signals import signals_held
from pagecheck.errors import EngineError, PagecheckError, PeerError, SourceError, UsageError
from pagecheck.logs import Log
from pagecheck.shortage import no_thread
from pagecheck.survey import local_cluster, remote
from pagecheck.survey.urls import without_secrets
from pagecheck.survey.versions import differences, require_pagecheck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import distributed

    from pagecheck.survey.values import Failed, Found, Options, Piece, Target

log = Log(__name__)

CONNECT_S: Final = 10.0
WORKERS_S: Final = 10.0  # until one has joined
START_S: Final = 60.0  # until those of a local cluster have, or until all are ready
PULSE_S: Final = 2.0
SILENT_S: Final = 30.0  # then the scheduler is taken for gone
END_S: Final = 3.0
TICK_S: Final = 0.1


class Answer(NamedTuple):
    """What became of a batch.

    Attributes:
        number: of the batch.
        found: an answer for each piece; None: there is none.
        error: then why, in one line.
        died: the workers that had it died.
        worker: the address of the one that could not check, where it said so.
    """

    number: int
    found: list[Found | Failed] | None
    error: str = ""
    died: bool = False
    worker: str | None = None


READY: Final = Answer(0, [])


class Connection:
    """A scheduler and its workers, for one survey.

    Attributes:
        address: of the scheduler; empty before the start of a local cluster.
        workers: how many there are at the moment.
        threads: how many pieces they can check at the same time.
    """

    def __init__(
        self, options: Options, channels: int | None, address: str | None, workers: int
    ) -> None:
        """Starts nothing yet.

        Args:
            channels: of each worker; None: as many as it has threads.
            address: of a scheduler; None: a local cluster is made.
            workers: how many the local cluster has.
        """
        name = uuid.uuid4().hex
        self._job = remote.Job(name, __version__, options, channels, address is None)
        self.address = address or ""
        self.workers = workers
        self.threads = workers
        self._answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pagecheck-dask", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._client: distributed.Client | None = None
        self._addresses: frozenset[str] = frozenset()
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._ended = False

    def open(self) -> None:
        """Connects, or starts the local cluster.

        Raises:
            PeerError: there is no scheduler, or it has no worker.
            EngineError: Dask is missing, or local workers cannot be started.
        """
        try:
            with signals_held():  # which local workers have from the thread, see dask_setup
                self._thread.start()
        except RuntimeError as error:
            raise no_thread("a cluster", error) from error
        while self.next() is None:
            pass

    def begin(self, targets: Sequence[Target], watch: Callable[[], None]) -> None:
        """Makes every worker ready.

        Args:
            targets: some of the files that every worker has to see.
            watch: called several times a second.

        Raises:
            EngineError: a worker has another pagecheck, or cannot check.
            SourceError: a worker does not see a file.
            PeerError: not all of them are ready in time.
        """
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._begin(targets), self._loop)
        while self.next() is None:
            watch()

    def submit(
        self, number: int, pieces: Sequence[Piece], avoid: frozenset[str] = frozenset()
    ) -> None:
        """Gives a batch to whichever worker is free; its answer comes by `next`.

        Args:
            avoid: addresses of workers that do not get it, while there are others.
        """
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._submit, number, tuple(pieces), avoid)

    def drop(self, number: int) -> None:
        """Cancels a batch; an answer may have been on its way."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._drop, number)

    def next(self) -> Answer | None:
        """The next answer; None where none comes within TICK_S.

        Raises:
            PeerError: the scheduler is gone, or no longer answers.
        """
        try:
            answer = self._answers.get(timeout=TICK_S)
        except queue.Empty:
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Cancels what was submitted and leaves the cluster, a local one ended. Bounded."""
        if self._thread.ident is None:
            return
        self._ended = True
        with contextlib.suppress(RuntimeError, AttributeError):  # it has not begun, or is over
            self._loop.call_soon_threadsafe(self._main.cancel)  # type: ignore[union-attr]
        self._thread.join(3 * END_S)

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Dask's, which are for its programmers
                asyncio.run(self._serve())
        except PagecheckError as error:
            self._answers.put(error)
        except asyncio.CancelledError:
            self._answers.put(EngineError("the survey has ended"))
        except BaseException as error:
            self._answers.put(EngineError(f"{self.address or 'Dask'}: {_line(error)}"))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._main = asyncio.current_task()
        if self._ended:
            return
        async with contextlib.AsyncExitStack() as stack:
            local_cluster.import_dask()
            address: Any = self.address
            if not address:
                address = await local_cluster.started(stack, self.workers, START_S)
                self.address = address.scheduler_address
            client = self._client = await self._connected(stack, address)
            await self._look_for_workers(client)
            self._answers.put(READY)
            while True:
                await asyncio.sleep(PULSE_S)
                await self._look(client)

    async def _connected(
        self, stack: contextlib.AsyncExitStack, address: Any
    ) -> distributed.Client:
        import distributed

        try:
            client = distributed.Client(
                address, asynchronous=True, set_as_default=False, timeout=CONNECT_S
            )
            stack.push_async_callback(self._leave, client)
            async with asyncio.timeout(2 * CONNECT_S):
                return await client
        except ValueError as error:
            raise UsageError(f"{self.address}: {_line(error)}; write tcp://HOST:PORT") from error
        except Exception as error:
            text = f"{self.address}: no connection to a Dask scheduler: {_line(error)}"
            raise PeerError(text) from error

    async def _look_for_workers(self, client: distributed.Client) -> None:
        until = clock.now_s() + WORKERS_S
        await self._look(client)
        while not self.workers:
            if clock.now_s() >= until:
                raise PeerError(f"{self.address}: no worker has joined this Dask scheduler")
            await asyncio.sleep(TICK_S)
            await self._look(client)

    async def _look(self, client: distributed.Client) -> None:
        """Asks the scheduler for its workers.

        Raises:
            PeerError: it is gone, or does not answer.
        """
        try:
            async with asyncio.timeout(SILENT_S):
                threads = await client.scheduler.ncores()
        except TimeoutError as error:
            text = f"{self.address}: the Dask scheduler has not answered for {SILENT_S:.0f} s"
            raise PeerError(text) from error
        except Exception as error:
            raise self._gone() from error
        self._addresses = frozenset(threads)
        self.workers, self.threads = len(threads), sum(threads.values())

    def _gone(self) -> PeerError:
        return PeerError(f"{self.address}: the connection to the Dask scheduler is lost")

    async def _begin(self, targets: Sequence[Target]) -> None:
        try:
            await self._make_ready(targets)
        except PagecheckError as error:
            self._answers.put(error)
        except Exception as error:
            self._answers.put(PeerError(f"{self.address}: {_line(error)}"))
        else:
            self._answers.put(READY)

    async def _make_ready(self, targets: Sequence[Target]) -> None:
        """Makes the workers ready; says what differs among them."""
        client = self._client
        assert client is not None
        options = self._job.options
        if options.max_rate is not None:
            share = max(options.max_rate // max(1, self.threads), 1)
            self._job = self._job._replace(options=options._replace(max_rate=share))
        try:
            async with asyncio.timeout(START_S):
                ready: dict[str, object] = {}
                while not ready:  # whom the scheduler still named may have been gone
                    await self._look_for_workers(client)
                    versions = await client.get_versions(packages=["pagecheck"])
                    require_pagecheck(self.address, versions)
                    begun = await client.run(
                        remote.begin, self._job, list(targets), on_error="return"
                    )
                    ready = {w: each for w, each in begun.items() if not isinstance(each, OSError)}
        except TimeoutError as error:
            text = f"{self.address}: not all workers were ready within {START_S:.0f} s"
            raise PeerError(text) from error
        for worker, answer in ready.items():
            _require_ready(worker, answer, targets)
        for line in differences(self.address, versions):
            log.warning("%s", line)

    def _submit(self, number: int, pieces: tuple[Piece, ...], avoid: frozenset[str]) -> None:
        assert self._loop is not None
        others = sorted(self._addresses - avoid) if avoid else []
        self._asked[number] = self._loop.create_task(self._ask(number, pieces, others))

    def _drop(self, number: int) -> None:
        task = self._asked.pop(number, None)
        if task is not None:
            task.cancel()

    async def _ask(self, number: int, pieces: tuple[Piece, ...], workers: list[str]) -> None:
        """Submits a batch, waits for its answer and queues it.

        Args:
            workers: that may get it; none: all of them.
        """
        import distributed

        client = self._client
        assert client is not None
        key = f"pagecheck-{self._job.name}-{number}"
        how = {"key": key, "pure": False, "workers": workers or None}
        future = client.submit(remote.answer, self._job, pieces, **how)
        try:
            answer = Answer(number, await future)
        except asyncio.CancelledError:
            if not future.cancelled() or self._ended:
                raise
            answer = Answer(number, None, "the scheduler has dropped it", died=True)
        except Exception as error:
            died = future.cancelled() or isinstance(error, distributed.KilledWorker)
            why = "its worker died" if died else _why(error)
            answer = Answer(number, None, why, died, getattr(error, "worker", None))
        finally:
            self._asked.pop(number, None)
            with contextlib.suppress(Exception):
                future.release()
        if answer.died and client.status != "running":
            self._answers.put(self._gone())
        else:
            self._answers.put(answer)

    async def _leave(self, client: distributed.Client) -> None:
        """Leaves the cluster as it was."""
        self._ended = True
        tasks = list(self._asked.values())
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_S):
                if client.status == "running":  # else it would wait for the scheduler
                    await client.run(remote.end, self._job.name, on_error="ignore")
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_S):
                await client.close()


def _require_ready(worker: str, answer: object, targets: Sequence[Target]) -> None:
    if isinstance(answer, PagecheckError):
        raise type(answer)(f"worker {worker}: {answer}")
    if not isinstance(answer, list):
        raise EngineError(f"worker {worker}: cannot run this pagecheck: {_line(answer)}")
    for target, why in zip(targets, answer, strict=True):
        if why is not None:
            raise SourceError(f"{target.path}: {why}; give paths that all workers see")


def _why(error: Exception) -> str:
    """Why a worker has no answer; of an error that is not ours the kind, too."""
    line = _line(error)
    return line if isinstance(error, PagecheckError) else f"{type(error).__name__}: {line}"


def _line(error: object) -> str:
    """An error that a library wrote, as part of a line."""
    return without_secrets(str(error)) or type(error).__name__
