"""Dask schedulers and workers as a user starts them, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.support.waiting import wait_for

_QUIET = ("--no-dashboard",)


class Cluster:
    """A scheduler and its workers, one process and one thread each.

    Attributes:
        address: of the scheduler.
        scheduler, workers: the processes.
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), **config: str) -> None:
        self.folder = folder
        self._options = list(options)
        self._environment = {**os.environ, **config}
        self.workers: list[subprocess.Popen[bytes]] = []
        self._log = (folder / "log").open("wb")
        self._file = folder / "scheduler.json"
        file = ["--scheduler-file", str(self._file), "--host", "127.0.0.1", "--port", "0"]
        self.scheduler = self._started("scheduler", *file, "--dashboard-address", "127.0.0.1:0")
        wait_for(self._is_written, "a scheduler")
        self.address = json.loads(self._file.read_text())["address"]

    def _is_written(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(self._file.read_text()))
        return False

    def _started(
        self, what: str, *arguments: str, before: Sequence[str] = (), **more: str
    ) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_" + what]
        return subprocess.Popen(
            [*command, *arguments, *self._options, *_QUIET],
            env={**self._environment, **more},
            stdout=self._log,
            stderr=self._log,
        )

    def add_worker(
        self, *arguments: str, before: Sequence[str] = (), **environ: str
    ) -> subprocess.Popen[bytes]:
        """Starts one; `joined` waits for it."""
        common = ["--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--host", "127.0.0.1"]
        common += ["--local-directory", str(self.folder)]
        worker = self._started(
            "worker", self.address, *common, *arguments, before=before, **environ
        )
        self.workers.append(worker)
        return worker

    def children(self) -> list[psutil.Process]:
        """What pagecheck started in the workers."""
        found = []
        for worker in self.workers:
            with contextlib.suppress(psutil.Error):
                found += psutil.Process(worker.pid).children(recursive=True)
        return found

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
        self._log.close()


@contextlib.contextmanager
def cluster(folder: Path, *options: str, **config: str) -> Iterator[Cluster]:
    """A scheduler and what workers are added, gone afterwards."""
    made = Cluster(folder, options, **config)
    try:
        yield made
    finally:
        made.close()
