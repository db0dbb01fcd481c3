"""Whatever a program answers in place of a VMM's API: an answer, or one clear line, soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.api_control import ApiControl
from pagecheck.vmm.kinds import FIRECRACKER

HEAD = b"HTTP/1.1 200 OK\r\n"
PIECES = [
    *(HEAD, b"HTTP/9.9 1 x\r\n", b"HTTP/1.1 100 \r\n\r\n"),
    *(
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.0 400 \r\n",
    ),
    *(b"\r\n", b"\n", b"Content-Length: 2\r\n", b"Content-Length: -1\r\n"),
    *(b"Content-Length: 2, 3\r\n", b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n"),
    *(b"0\r\n\r\n", b"ffffffffffffffffff\r\n", b"{}", b'{"state": "Running"}'),
    *(b"Connection: close\r\n", b"X: \x00\r\n", b" folded\r\n", b":\r\n"),
]


class Peer:
    """Answers each connection by the same bytes, and hangs up."""

    def __init__(self, path: Path) -> None:
        self.answer = b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with client, contextlib.suppress(OSError):
                    client.recv(65536)
                    client.sendall(self.answer)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Path]]:
    path = tmp_path_factory.mktemp("http") / "api"
    peer = Peer(path)
    thread = threading.Thread(target=peer.serve)
    thread.start()
    yield peer, path
    peer.listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    peer.listener.close()


async def outcome(path: Path) -> list[str]:
    """What is said of the answer, as one request and as a state; nothing where it is right."""
    control = ApiControl(FIRECRACKER, str(path))
    said = []
    for ask in (control.execute("GET /"), control.status()):
        try:
            await asyncio.wait_for(ask, 30)
        except (PeerError, SourceError) as error:
            said.append(str(error))
    await control.close()
    if (pidfd := control._http._place._pidfd) is not None:
        os.close(pidfd)
    return said


ANSWERS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.binary(max_size=300)
)


@settings(max_examples=300, deadline=None)
@given(ANSWERS)
def test_any_bytes(peer: tuple[Peer, Path], answer: bytes) -> None:
    peer[0].answer = answer
    for line in asyncio.run(outcome(peer[1])):
        assert "\n" not in line
        assert line.startswith(f"fc:{peer[1]}: ")
