"""A Dask cluster on this machine, for one survey.

Danger: whoever reaches a scheduler or a worker runs programs as its user, and a port of 127.0.0.1
is open to every user of the machine. Decision: TLS with a key that lives in the memory of our
processes alone, on that address alone, without Dask's web pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import sys
import tempfile
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final

from pagecheck.child.signals import release_signals, signals_held
from pagecheck.errors import EngineError
from pagecheck.shm.owner import sweep
from pagecheck.shortage import refused

if TYPE_CHECKING:
    import distributed

END_S: Final = 3.0
KILL_S: Final = 0.5  # a worker that has not ended by then is killed; it has no work any more
STARTING: Final = "cannot start local Dask workers"
HOST: Final = "127.0.0.1"
_LOGGERS: Final = ("distributed", "tornado", "bokeh")
_CONFIG: Final = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.scheduler.allowed-failures": 0,  # who is at fault is found out in cluster.py
    "distributed.scheduler.worker-ttl": "60s",  # a worker that is frozen so long is another's work
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "logging": dict.fromkeys(("distributed", "distributed.worker", "tornado"), "critical"),
}


def import_dask() -> None:
    """Imports Dask; what it logs is no longer written to the terminal, unless the program that we
    are part of had imported it before.

    Raises:
        EngineError: it is not installed.
    """
    if "distributed" in sys.modules:
        return
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"a cluster needs Dask ({error}): pip install 'pagecheck[survey]'"
        ) from error
    for name in [each for each in logging.root.manager.loggerDict if each.startswith(_LOGGERS)]:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


async def started(
    stack: contextlib.AsyncExitStack, workers: int, seconds: float
) -> distributed.LocalCluster:
    """A cluster with so many workers of one thread each.

    Args:
        stack: ends it.
        seconds: until all of them must have joined.

    Raises:
        EngineError: they do not, or TLS is missing.
    """
    import dask
    import distributed

    try:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pagecheck-dask-"))
    except OSError as error:
        raise refused(STARTING, error) from error
    stack.enter_context(dask.config.set(_CONFIG))
    _start_tracker()
    stack.callback(sweep)  # a worker that was killed leaves names in /dev/shm
    before = set(multiprocessing.active_children())
    stack.callback(_kill_but, before)
    try:
        security = distributed.Security.temporary()
    except ImportError as error:
        raise EngineError(f"local workers need TLS: {error}: pip install cryptography") from error
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host=HOST,
        dashboard_address=None,
        security=security,
        silence_logs=logging.CRITICAL,
        memory_limit=0,
        local_directory=folder,
        preload=[*_preloads(dask.config.get("distributed.worker.preload")), __name__],
        asynchronous=True,
        scheduler_kwargs={"dashboard_address": f"{HOST}:0"},
    )
    stack.push_async_callback(_ended, cluster)
    try:
        async with asyncio.timeout(seconds):
            return await _whole(cluster)
    except TimeoutError as error:
        raise EngineError(f"{STARTING}: not ready within {seconds:.0f} s") from error
    except Exception as error:
        raise refused(STARTING, _cause(error)) from error


async def _whole(cluster: Any) -> Any:
    """Waits for the start, also where it is no longer wanted: of a cluster that is ended amid its
    start, processes come up and write that they miss something."""

    async def start() -> Any:
        return await cluster

    starting = asyncio.create_task(start())
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_S):
                await starting
        raise


def _cause(error: BaseException) -> BaseException:
    """What is at the bottom of an error of Dask's, such as that there are no more descriptors."""
    found, below = error, error.__cause__ or error.__context__
    while below is not None:
        found = below if str(below) else found
        below = below.__cause__ or below.__context__
    return found


def _preloads(configured: str | list[str] | None) -> list[str]:
    """What a user's own configuration of Dask has workers load."""
    return [configured] if isinstance(configured, str) else list(configured or ())


async def _ended(cluster: Any) -> None:
    started = cluster.status.name == "running"
    with contextlib.suppress(Exception):
        async with asyncio.timeout(END_S if started else KILL_S):
            nannies = [each.close(timeout=KILL_S) for each in cluster.workers.values()]
            await asyncio.gather(*nannies, return_exceptions=True)
            await cluster.close()


def _start_tracker() -> None:
    """Starts Python's process that removes semaphores; that it has some of workers that were killed
    to remove is nothing to be told."""
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    try:
        with signals_held():  # it would let them in to this thread, and so to the workers
            resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def _kill_but(before: set[Any]) -> None:
    """Ends processes of the cluster that are left."""
    for process in set(multiprocessing.active_children()) - before:
        with contextlib.suppress(Exception):
            process.kill()
            process.join(1)


def dask_setup(_worker: object) -> None:
    """Called by Dask in each worker's process, which was started with these signals held: a Ctrl-C
    in the terminal, which all processes get, is for the one that ends them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    release_signals()
