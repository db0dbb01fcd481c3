"""A client is complete before others see it."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from pagecheck.errors import LimitError
from pagecheck.service.limits import Peer
from pagecheck.service.registry import Registry
from pagecheck.service.session import Session


class Watching(Registry):
    """Another client asks for `query-stats` at once."""

    def enter(self, client: Any, *, trusted: bool) -> None:
        super().enter(client, trusted=trusted)
        self.seen = client.describe()
        client.hang_up()


@pytest.fixture
def service() -> Any:
    coordinator = SimpleNamespace(block_of=None)
    counters = SimpleNamespace(add=lambda *_args: None)
    answers = SimpleNamespace(bytes_kept=lambda _client: 0)
    return SimpleNamespace(
        coordinator=coordinator, counters=counters, answers=answers, clients=Watching(4)
    )


def test_one_that_was_just_let_in_can_be_described(service: Any) -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        session = Session(service, ours, Peer(1, 0, True))
        assert session.number == 1
        assert service.clients.seen["client"] == 1


def test_one_that_cannot_be_served_takes_no_place(service: Any) -> None:
    ours, theirs = socket.socketpair()
    ours.close()  # setsockopt fails
    with contextlib.closing(theirs), pytest.raises(OSError, match="Bad file"):
        Session(service, ours, Peer(1, 0, True))
    assert service.clients.all() == []


def test_one_too_many_is_refused(service: Any) -> None:
    service.clients = Registry(0)
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs), pytest.raises(LimitError):
        Session(service, ours, Peer(1, 0, True))
