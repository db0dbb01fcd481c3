"""A client of the service that speaks the protocol by hand."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.bitmaps import bits


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
