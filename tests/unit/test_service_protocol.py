"""Which process sent a line, as the kernel says: of lines in parts, and of several senders."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from pagecheck.service.protocol import FDS_PER_LINE, Connection, Line

END_NS = 1 << 62


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Connection]]:
    """What lines are sent on, and what receives them with their senders."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(theirs, senders=True)
    yield ours, connection
    ours.close()
    connection.close()


def in_child(work: Callable[[], object]) -> int:
    """Has another process do it, and end."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return child


def sender(connection: Connection) -> tuple[bytes, int]:
    line = connection.receive(END_NS)
    assert line is not None
    return line.text, line.sender


def test_one_sender(pair: tuple[socket.socket, Connection]) -> None:
    ours, connection = pair
    ours.sendall(b"a\nb\nc")
    assert sender(connection) == (b"a", os.getpid())
    assert sender(connection) == (b"b", os.getpid())
    ours.sendall(b"c\n")
    assert sender(connection) == (b"cc", os.getpid())


def test_several_senders(pair: tuple[socket.socket, Connection]) -> None:
    ours, connection = pair
    ours.sendall(b"a\n")
    child = in_child(lambda: ours.sendall(b"b\nc"))
    ours.sendall(b"d\ne\n")
    other = in_child(lambda: ours.sendall(b"f\n"))
    assert sender(connection) == (b"a", os.getpid())
    assert sender(connection) == (b"b", child)
    assert sender(connection) == (b"cd", 0)
    assert sender(connection) == (b"e", os.getpid())
    assert sender(connection) == (b"f", other)


def test_nobody_is_asked_for_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(theirs)
    ours.sendall(b"a\n")
    assert connection.receive(END_NS) == Line(b"a", [])
    ours.close()
    connection.close()


def test_as_many_descriptors_as_without(pair: tuple[socket.socket, Connection]) -> None:
    ours, connection = pair
    socket.send_fds(ours, [b"a\n"], [0] * FDS_PER_LINE)
    line = connection.receive(END_NS)
    assert line is not None
    assert len(line.fds) == FDS_PER_LINE
    assert not line.is_short
    assert line.sender == os.getpid()
    for fd in line.fds:
        os.close(fd)
