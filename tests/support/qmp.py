"""A QMP server in a thread, for states that a real QEMU is hard to bring into."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.vmm.hold import watchdog_process

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
        "capabilities": ["oob"],
    }
}


class FakeQemu:
    """Answers one client after the other.

    Attributes:
        path: of its socket.
        status: what query-status says; `stop` and `cont` change it.
        commands: the names of those that came, in order.
        answers: command → its value, or a function of its arguments; an exception is an error.
        events: sent before the next answer to `events_before`.
        raw: command → bytes that are sent in place of its answer, made from the request's id; None
            hangs up.
        fds: descriptors that came since the last command that took one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = "running"
        self.commands: list[str] = []
        self.answers: dict[str, Any] = {"query-migrate": {}}
        self.events: list[str] = []
        self.events_before = "query-status"
        self.raw: dict[str, Callable[[Any], bytes | None]] = {}
        self.fds: list[int] = []
        self._client: socket.socket | None = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # closed, at the end
            while True:
                client, _ = self.listener.accept()
                with contextlib.suppress(OSError), client:
                    self._serve(client)

    def end(self) -> None:
        """Listens no more, and hangs up."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        for each in (self.listener, self._client):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def say(self, line: bytes) -> None:
        """Sends it to the client that there is."""
        assert self._client is not None
        self._client.sendall(line)

    def _serve(self, client: socket.socket) -> None:
        self._client = client
        self._say(client, GREETING)
        for asked in _objects(client, self.fds):
            if asked["execute"] in self.raw:
                self.commands.append(asked["execute"])
                said = self.raw[asked["execute"]](asked.get("id"))
                if said is None:
                    return
                client.sendall(said)
                continue
            try:
                answer = {"return": self._answer(asked["execute"], asked.get("arguments") or {})}
            except RuntimeError as error:
                answer = {"error": {"class": "GenericError", "desc": str(error)}}
            if asked["execute"] == self.events_before:
                for event in self.events:
                    time = {"seconds": 0, "microseconds": 0}
                    self._say(client, {"event": event, "timestamp": time})
                self.events = []
            self._say(client, {**answer, "id": asked.get("id")})

    def _say(self, client: socket.socket, message: dict[str, Any]) -> None:
        client.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "qmp_capabilities":
            return {}
        self.commands.append(command)
        if command in self.answers:
            answer = self.answers[command]
            return answer(arguments) if callable(answer) else answer
        if command == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if command in ("stop", "cont"):
            self.status = {"stop": "paused", "cont": "running"}[command]
            return {}
        raise RuntimeError(f"The command {command} has not been found")


def _objects(client: socket.socket, fds: list[int]) -> Iterator[dict[str, Any]]:
    """What the client says; nothing but the JSON itself tells where one object ends."""
    received = ""
    while part := socket.recv_fds(client, 65536, 4):
        if not part[0]:
            return
        fds += part[1]
        received = (received + part[0].decode()).lstrip()
        while received:
            try:
                value, end = json.JSONDecoder().raw_decode(received)
            except ValueError:
                break
            received = received[end:].lstrip()
            yield value


def in_watchdog(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Has watchdogs that are started from now on run a line of Python first."""
    where = "from pagecheck.vmm.hold.watchdog import main; "
    boot = watchdog_process.PROGRAM.code
    assert where in boot
    monkeypatch.setattr(watchdog_process.PROGRAM, "code", boot.replace(where, f"{code}; {where}"))


@contextlib.contextmanager
def fake_qemu(path: Path) -> Iterator[FakeQemu]:
    """A fake QEMU that listens on a path."""
    fake = FakeQemu(path)
    with served(fake.serve, fake.listener):
        try:
            yield fake
        finally:
            fake.end()  # a watchdog that stays ends with its QEMU


@contextlib.contextmanager
def served(serve: Callable[[], None], listener: socket.socket) -> Iterator[None]:
    """Runs `serve` in a thread until its listener is shut down."""
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
