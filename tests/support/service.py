"""A running `pagecheck serve` that is judged when it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.command import PAGECHECK
from tests.support.processes import living
from tests.support.raw_client import greeting_of
from tests.support.waiting import wait_for

START_S = 30.0
END_S = 15.0

StartService = Callable[..., "ServiceProcess"]


class ServiceProcess:
    """A running `pagecheck serve`, and what is to be gone when it has ended.

    Attributes:
        path: its socket.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], path: str, stderr: Path, *, removes_path: bool
    ) -> None:
        self.process = process
        self.path = path
        self._stderr = stderr
        self._removes_path = removes_path
        self.prefix = ""
        self.was_killed = False
        self._was_judged = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def stderr_text(self) -> str:
        return self._stderr.read_text(errors="replace")

    def await_ready(self) -> ServiceProcess:
        """Until it greets; notes its names in /dev/shm."""

        def greets() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode}: {self.stderr_text()}")
            with contextlib.suppress(OSError, EOFError):
                return "pagecheck" in greeting_of(self.path)
            return False

        wait_for(greets, "the service greets", START_S)
        self.prefix = wait_for(self._find_prefix, "the service's names in /dev/shm")
        return self

    def _find_prefix(self) -> str:
        for link in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                to = os.readlink(f"/proc/{self.pid}/fd/{link}")
                if found := re.fullmatch(r"/dev/shm/(pagecheck-\d+-[0-9a-f]{16})-owner", to):
                    return found[1]
        return ""

    def names(self) -> list[str]:
        """Its names in /dev/shm."""
        return [name for name in os.listdir("/dev/shm") if self.prefix in name]

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def stop(self, number: int = signal.SIGTERM, seconds: float = END_S) -> int:
        """Ends it and looks that nothing of it is left.

        Returns:
            The exit code.
        """
        children = self.children()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the service did not end in {seconds} s: {self.stderr_text()}")
        self._judge(children)
        self._was_judged = True  # its path may be the next one's from now on
        return code

    def kill(self) -> None:
        """SIGKILL: what it leaves is the test's to look at; its workers end by themselves."""
        children = self.children()
        self.was_killed = True
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not living(children), "the workers of a killed service gone")

    def _judge(self, children: list[psutil.Process]) -> None:
        text = self.stderr_text()
        assert "Traceback" not in text, text
        assert "a bug in pagecheck" not in text, text
        wait_for(lambda: not living(children), "the service's children gone", 3)
        assert self.names() == []
        if self._removes_path:
            assert not os.path.lexists(self.path)

    def finish(self) -> None:
        """At the end of a test."""
        if self._was_judged:
            return
        if self.was_killed:
            for name in self.names():
                os.unlink(f"/dev/shm/{name}")
            return
        crashed = self.process.returncode not in (None, 0)
        assert not crashed, f"ended with {self.process.returncode}: {self.stderr_text()}"
        assert self.stop() == 0, self.stderr_text()


@contextlib.contextmanager
def services(folder: Path) -> Iterator[StartService]:
    """A function that starts `pagecheck serve` with more arguments and waits until it greets; all
    that were started are ended and judged at the end.

    Its keyword arguments:
        path: where it listens; a new place for every service.
        command: the whole command line before the arguments, where `--socket` must not be given;
            then the socket at `path` is somebody else's and stays.
        ready: False: do not wait.
        Others are those of Popen.

    Args:
        folder: where the sockets and what the services say are put; its name is short.
    """
    started: list[ServiceProcess] = []

    def start(
        *arguments: Any,
        path: str | None = None,
        command: list[str] | None = None,
        ready: bool = True,
        **options: Any,
    ) -> ServiceProcess:
        path = path or str(folder / f"s{len(started)}")
        stderr = folder / f"stderr{len(started)}"
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

    try:
        yield start
    except BaseException:
        for service in started:
            _problem_at_end(service)
        raise
    problems = [problem for service in started if (problem := _problem_at_end(service))]
    if problems:
        raise problems[0]


def _problem_at_end(service: ServiceProcess) -> BaseException | None:
    try:
        service.finish()
    except BaseException as problem:
        return problem
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
    return None
