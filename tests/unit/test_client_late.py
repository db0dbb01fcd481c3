"""`Client` when the service answers too late, reads too late, or not at all."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecheck import Client
from pagecheck.errors import LimitError, PeerError
from pagecheck.service.requests import NoReply
from tests.support.leftovers import open_fds
from tests.unit.test_client import GREETING, peer

SHORT_S = 0.05


class Late:
    """A service that answers when the test says so, and writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.connected: socket.socket | None = None
        self._go_on = threading.Semaphore(0)
        self._lines: list[dict[str, Any]] = []

    def serve(self, connected: socket.socket) -> None:
        self.connected = connected
        self._say(GREETING)
        file = connected.makefile("rb")
        for line in file:
            self.asked.append(json.loads(line))
            self._go_on.release()

    def _say(self, *messages: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        assert self.connected is not None
        text = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
        socket.send_fds(self.connected, [text], fds)

    def answer(self, number: int, fds: tuple[int, ...] = (), **members: Any) -> None:
        """Answers that request, once it is there."""
        while len(self.asked) <= number:
            assert self._go_on.acquire(timeout=20)
        self._say({"id": self.asked[number]["id"], **members}, fds=fds)


def _then(client: Client, answer: Callable[[], None]) -> dict[str, Any]:
    """A command that is answered by the service's other thread."""
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        return client.execute("query-blocks")[0]
    finally:
        thread.join()


def test_a_late_answer_is_dropped_and_its_descriptors_closed() -> None:
    late = Late()
    with peer(late.serve) as path, Client(path) as client:
        before = len(open_fds())
        with pytest.raises(NoReply, match="in time"):
            client.execute("check", timeout=SHORT_S)

        def answer() -> None:
            with open(os.devnull) as null:
                late.answer(0, (null.fileno(),), **{"return": {"wrong": True}})
            late.answer(1, **{"return": {"right": True}})

        assert _then(client, answer) == {"right": True}
        assert len(open_fds()) == before
        assert [each["execute"] for each in late.asked] == ["check", "query-blocks"]


def test_what_comes_of_it_too_late_is_given_back() -> None:
    """A channel that nobody knows of would hold its worker for as long as the connection lives."""
    late = Late()
    with peer(late.serve) as path, Client(path) as client:
        for command in ("open-channel", "attach", "close-channel"):
            with pytest.raises(NoReply):
                client.execute(command, timeout=SHORT_S)

        def answer() -> None:
            late.answer(0, **{"return": {"channel": 4}})
            late.answer(1, **{"return": {"block": 6, "blocks": [{"block": 6}, {"block": 7}]}})
            late.answer(2, error={"class": "UsageError", "desc": "late"})
            for number in (4, 5, 6):  # what was given back
                late.answer(number, **{"return": {"wrong": True}})
            late.answer(3, **{"return": {"right": True}})

        assert _then(client, answer) == {"right": True}
    assert [(each["execute"], each["arguments"]) for each in late.asked[4:]] == [
        ("close-channel", {"channel": 4}),
        ("detach", {"block": 6}),
        ("detach", {"block": 7}),
    ]


def test_nothing_sent_is_nothing_lost() -> None:
    """The service reads nothing for a while: what does not go out has never been asked."""
    reads = threading.Event()

    def serve(connected: socket.socket) -> None:
        connected.sendall(json.dumps(GREETING).encode() + b"\n")
        assert reads.wait(60)
        for line in connected.makefile("rb"):
            number = json.loads(line)["id"]
            connected.sendall(json.dumps({"id": number, "return": {"n": number}}).encode() + b"\n")

    with peer(serve) as path, Client(path) as client:
        asked, said = 0, ""
        while "does not read" not in said:
            with pytest.raises(NoReply) as caught:
                client.execute("check", timeout=0)
            said = str(caught.value)
            asked += 1
            assert asked < 100_000
        reads.set()
        assert client.execute("query-blocks")[0] == {"n": asked + 1}


def test_half_a_line_is_the_end_of_the_connection() -> None:
    reads = threading.Event()

    def serve(connected: socket.socket) -> None:
        connected.sendall(json.dumps(GREETING).encode() + b"\n")
        reads.wait(60)

    with peer(serve) as path, Client(path) as client:
        with pytest.raises(PeerError, match="connect again") as caught:
            client.execute("check", {"text": "x" * (1 << 22)}, timeout=SHORT_S)
        assert not isinstance(caught.value, NoReply)
        with pytest.raises(PeerError, match="connect again"):
            client.blocks()
        assert client.is_hung_up()
        reads.set()


def test_who_hung_up_is_to_be_connected_to_again() -> None:
    def serve(connected: socket.socket) -> None:
        connected.sendall(json.dumps(GREETING).encode() + b"\n")
        connected.recv(4096)

    with peer(serve) as path, Client(path) as client:
        assert not client.is_hung_up()
        for _ in range(2):
            with pytest.raises(PeerError, match="connect again"):
                client.blocks()
        assert client.is_hung_up()


def test_an_error_of_the_connection_is_told() -> None:
    """It answers no request, and another answer does not come."""

    def serve(connected: socket.socket) -> None:
        connected.sendall(json.dumps(GREETING).encode() + b"\n")
        connected.recv(4096)
        told = {"error": {"class": "LimitError", "desc": "line of more than 9 bytes"}}
        connected.sendall(json.dumps(told).encode() + b"\n")
        connected.recv(4096)

    with (
        peer(serve) as path,
        Client(path) as client,
        pytest.raises(LimitError, match="more than 9 bytes"),
    ):
        client.blocks()
