"""The socket between coordinator and worker."""

import json
import os
import socket
import time
from collections.abc import Iterator

import pytest

from pagecheck.child.wire import MESSAGE_BYTES, Closed, Link
from pagecheck.errors import InternalError

PAST = 0
SOON = time.monotonic_ns() + 60_000_000_000


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    a, b = Link.pair()
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def raw() -> Iterator[tuple[Link, socket.socket]]:
    """A link and the bare socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link.inherited(ours.detach())
    yield link, theirs
    link.close()
    theirs.close()


def test_message_arrives(ends: tuple[Link, Link]) -> None:
    ends[0].send({"a": [1, None, "ü\ud800"]})
    assert ends[1].receive(SOON) == ({"a": [1, None, "ü\ud800"]}, [])


def test_messages_keep_their_borders_and_order(ends: tuple[Link, Link]) -> None:
    for n in range(10):
        ends[0].send({"n": n})
    assert [ends[1].receive(SOON)[0]["n"] for _ in range(10)] == list(range(10))


def test_one_message_is_one_line(raw: tuple[Link, socket.socket]) -> None:
    raw[0].send({"text": "a\nb"})
    line = raw[1].recv(MESSAGE_BYTES)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {"text": "a\nb"}


def test_descriptors_arrive(ends: tuple[Link, Link]) -> None:
    fds = [os.memfd_create(f"m{n}") for n in range(3)]
    ends[0].send({}, tuple(fds))
    _message, got = ends[1].receive(SOON)
    assert [os.fstat(fd).st_ino for fd in got] == [os.fstat(fd).st_ino for fd in fds]
    for fd in fds + got:
        os.close(fd)


def test_nothing_there_by_the_deadline(ends: tuple[Link, Link]) -> None:
    assert ends[0].receive(PAST) is None


def test_end_of_file(ends: tuple[Link, Link]) -> None:
    ends[0].close()
    with pytest.raises(Closed):
        ends[1].receive(SOON)
    with pytest.raises(Closed):
        ends[1].send({})


def test_a_message_before_the_end_is_read(ends: tuple[Link, Link]) -> None:
    ends[0].send({"last": 1})
    ends[0].close()
    assert ends[1].receive(SOON) == ({"last": 1}, [])


def test_a_deadline_that_is_years_away(ends: tuple[Link, Link]) -> None:
    ends[0].send({"x": 1})
    assert ends[1].receive(1 << 62) == ({"x": 1}, [])


@pytest.mark.timeout(2)
def test_full_buffer_does_not_wait(ends: tuple[Link, Link]) -> None:
    def fill() -> None:
        while True:
            ends[0].send({"x": "x" * 60000})

    with pytest.raises(Closed):
        fill()


def test_too_long(ends: tuple[Link, Link]) -> None:
    with pytest.raises(InternalError, match=str(MESSAGE_BYTES)):
        ends[0].send({"x": "x" * MESSAGE_BYTES})


@pytest.mark.parametrize("line", [b"no json\n", b"\xff\xfe", b"[1]\n", b"3\n", b"{"])
def test_hostile_line(raw: tuple[Link, socket.socket], line: bytes) -> None:
    raw[1].send(line)
    with pytest.raises(InternalError, match="worker socket"):
        raw[0].receive(SOON)


def test_ends_are_not_inherited(ends: tuple[Link, Link]) -> None:
    assert not any(os.get_inheritable(end.fileno()) for end in ends)


def test_another_thread_closes_it_as_a_message_comes(
    ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look that finds something to read and the read."""

    def ready(_fd: int, _deadline_ns: int) -> bool:
        ends[0].close()
        return True

    monkeypatch.setattr("pagecheck.clock.wait_ready", ready)
    with pytest.raises(Closed):
        ends[0].receive(SOON)


def test_send_after_another_thread_closed_it(ends: tuple[Link, Link]) -> None:
    ends[0].close()
    with pytest.raises(Closed):
        ends[0].send({})
