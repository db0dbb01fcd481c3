"""A VMM's API that closes its connection as the next request is on its way."""

from __future__ import annotations

import asyncio
import select
import socket
from pathlib import Path

import pytest

from pagecheck.errors import SourceError
from pagecheck.vmm.hold.http import HttpClient, Reply, Request
from pagecheck.vmm.hold.listener import VmmSocket
from pagecheck.vmm.kinds import FIRECRACKER
from tests.support.waiting import Background

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_request_that_was_not_read_is_sent_again(tmp_path: Path) -> None:
    path = str(tmp_path / "api")

    def serve(listener: socket.socket) -> list[bytes]:
        first, _ = listener.accept()
        asked = [first.recv(4096)]
        first.sendall(ANSWER)
        select.select([first], [], [], 10)  # the second one has come, and is not read
        first.close()
        second, _ = listener.accept()
        asked.append(second.recv(4096))
        second.sendall(ANSWER)
        second.close()
        return asked

    async def ask() -> list[Reply]:
        client = HttpClient(VmmSocket(path, None, FIRECRACKER))
        await client.connect()
        pause = Request("PATCH", "/vm", '{"state": "Paused"}')
        replies = [await client.request(Request("GET", "/")), await client.request(pause)]
        await client.close()
        return replies

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = Background(lambda: serve(listener))
        assert [each.status for each in asyncio.run(ask())] == [204, 204]
        assert [each.split()[0] for each in server.result(10)] == [b"GET", b"PATCH"]


def test_the_second_connection_counts_in_the_longest_time(tmp_path: Path) -> None:
    path = str(tmp_path / "api")

    def serve(listener: socket.socket) -> socket.socket:
        first, _ = listener.accept()
        other = socket.socket(socket.AF_UNIX)
        other.connect(path)  # the queue is full, and nobody takes it out
        select.select([first], [], [], 10)
        first.close()
        return other

    async def ask() -> None:
        client = HttpClient(VmmSocket(path, None, FIRECRACKER))
        await client.connect()
        with pytest.raises(SourceError, match=r"accepts no connection in (1|0\.[0-9]+) s"):
            await client.request(Request("GET", "/"), 1.0)
        await client.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        server = Background(lambda: serve(listener))
        asyncio.run(ask())
        server.result(10).close()
