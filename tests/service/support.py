"""What the tests of the service share: RAM with a known truth, a client that speaks the protocol by
hand, and a running service that is judged when it ends."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.bitmaps import bits
from tests.support.processes import living
from tests.support.waiting import wait_for

PAGECHECK = str(Path(sys.executable).with_name("pagecheck"))
START_S = 30.0
END_S = 15.0
NOBODY = 65534


class RawClient:
    """The protocol by hand, and nothing of pagecheck's own: what is sent is what the test says.

    Attributes:
        sent, received: every line so far, as JSON.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self._rest = b""
        self._lines: list[tuple[bytes, list[int]]] = []
        self._fds: list[int] = []
        self.sent: list[Any] = []
        self.received: list[Any] = []
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """One line, descriptors beside it; bytes are sent as they are."""
        if not isinstance(message, bytes):
            self.sent.append(message)
            message = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [message], list(fds))
        if sent < len(message):  # whoever has it all may have hung up
            self.socket.sendall(message[sent:])

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next line and its descriptors; EOFError at the end."""
        while not self._lines:
            data, fds, _flags, _address = socket.recv_fds(self.socket, 1 << 16, 8)
            self._fds += fds
            if not data:
                raise EOFError
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += [(line, []) for line in lines]
            if lines and not self._rest:  # descriptors belong to the last line that has begun
                self._lines[-1][1].extend(self._fds)
                self._fds = []
        line, fds = self._lines.pop(0)
        message = json.loads(line)
        self.received.append(message)
        return message, fds

    def execute(
        self, command: str, arguments: Any = None, fds: Sequence[int] = (), **more: Any
    ) -> tuple[dict[str, Any], list[int]]:
        """Sends a request and returns its answer, an error too; events are left in `received`."""
        self.send({"execute": command, "arguments": arguments or {}, **more}, fds)
        while "event" in (found := self.receive())[0]:
            pass
        return found

    def result(self, command: str, arguments: Any = None, fds: Sequence[int] = ()) -> Any:
        """As `execute`, for what must work; what came with it is closed."""
        message, received = self.execute(command, arguments, fds)
        for fd in received:
            os.close(fd)
        assert "return" in message, message
        return message["return"]

    def error(self, command: str, arguments: Any = None, fds: Sequence[int] = ()) -> dict[str, str]:
        """As `execute`, for what must be refused."""
        message, received = self.execute(command, arguments, fds)
        assert "error" in message, message
        assert received == []
        assert message["error"]["desc"].count("\n") == 0
        return message["error"]

    def close(self) -> None:
        for fd in (*self._fds, *(fd for _line, fds in self._lines for fd in fds)):
            os.close(fd)
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def mapped(fd: int, places: dict[str, dict[str, int]], pages: int) -> dict[str, np.ndarray]:
    """The bitmaps of one block in the memfd of a check; closes the descriptor."""
    memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    found = {}
    for name, place in places.items():
        raw = memory[place["offset"] : place["offset"] + place["bytes"]]
        assert len(raw) == place["bytes"] == (pages + 63) // 64 * 8
        found[name] = bits(raw, pages)
    memory.close()
    return found


def greeting_of(path: str) -> dict[str, Any]:
    """The first line of what listens there; it has forgotten us when this returns."""
    with RawClient(path) as client:
        greeting = client.receive()[0]
        client.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(EOFError):
            while True:
                client.receive()
        return greeting


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
        if self.was_killed:
            for name in self.names():
                os.unlink(f"/dev/shm/{name}")
            return
        crashed = self.process.returncode not in (None, 0)
        assert not crashed, f"ended with {self.process.returncode}: {self.stderr_text()}"
        assert self.stop() == 0, self.stderr_text()


def run_pagecheck(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """`pagecheck arguments...`, run to its end."""
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([PAGECHECK, *map(str, arguments)], **options)


def assert_fails(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on stderr, no traceback, the right exit code."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("pagecheck: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "a bug in pagecheck" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
