"""A real `pagecheck serve` for the tests of the service; what it leaves behind fails the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.support import PAGECHECK, RawClient, ServiceProcess
from tests.support.known_ram import KnownRam

StartService = Callable[..., ServiceProcess]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, and which every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pcs-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start_service(short_folder: Path) -> Iterator[StartService]:
    """Starts `pagecheck serve` with more arguments and waits until it greets.

    Keyword arguments:
        path: where it listens; a new place for every service.
        command: the whole command line before the arguments, where `--socket` must not be given;
            then the socket at `path` is somebody else's and stays.
        ready: False: do not wait.
        Others are those of Popen.
    """
    started: list[ServiceProcess] = []

    def start(
        *arguments: Any,
        path: str | None = None,
        command: list[str] | None = None,
        ready: bool = True,
        **options: Any,
    ) -> ServiceProcess:
        path = path or str(short_folder / f"s{len(started)}")
        stderr = short_folder / f"stderr{len(started)}"
        line = command or [PAGECHECK, "serve", "--socket", path]
        if not any(str(each).startswith(("--channels", "--wq")) for each in arguments):
            arguments = (*arguments, "--channels", 2)
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                [*line, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                **options,
            )
        service = ServiceProcess(process, path, stderr, removes_path=command is None)
        started.append(service)
        return service.await_ready() if ready else service

    problems: list[BaseException] = []
    yield start
    for service in started:
        try:
            service.finish()
        except BaseException as problem:
            problems.append(problem)
        finally:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
    if problems:
        raise problems[0]


@pytest.fixture
def service(start_service: StartService) -> ServiceProcess:
    """A service with two workers, on the CPU."""
    return start_service("--engine", "cpu")


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[RawClient]:
    """Connected to `service`, greeted."""
    with RawClient(service.path) as connected:
        connected.receive()
        yield connected


@pytest.fixture
def known_ram() -> Iterator[KnownRam]:
    """16 MiB in a memfd: holes, zeros, pages with one byte, random pages."""
    ram = KnownRam()
    yield ram
    ram.close()


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: other users are played by setuid")
