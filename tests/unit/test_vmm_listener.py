"""The same socket again, or somebody else's, or nobody's."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold import listener
from pagecheck.vmm.hold.listener import Gone, Listener, VmmSocket
from pagecheck.vmm.kinds import QEMU

pytestmark = pytest.mark.usefixtures("clean")


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def connected(place: VmmSocket) -> Listener:
    connection, found = asyncio.run(place.connect(time.monotonic() + 1))
    connection.close()
    place.keep(found)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[VmmSocket, Path]]:
    """A socket of a process that ends with the test, connected to once."""
    path = tmp_path / "qmp"
    place = VmmSocket(str(path), None, QEMU)
    with listening(path):
        assert connected(place).pid == os.getpid()
        assert connected(place) == connected(place)
        yield place, path
    if place._pidfd is not None:
        os.close(place._pidfd)


def test_nobody_listens_at_first(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nobody listens.*start QEMU with"):
        connected(VmmSocket(str(tmp_path / "qmp"), None, QEMU))


def test_another_socket_at_the_path(place: tuple[VmmSocket, Path]) -> None:
    """Of the same process, which lives: it may be a launcher's, and this another VM."""
    place[1].rename(place[1].with_name("old"))
    with listening(place[1]), pytest.raises(SourceError, match=r"another socket.*lives") as caught:
        connected(place[0])
    assert not isinstance(caught.value, Gone)
    place[1].with_name("old").rename(place[1])
    assert connected(place[0]).pid == os.getpid()


def test_a_path_that_is_gone_for_a_while(place: tuple[VmmSocket, Path]) -> None:
    place[1].rename(place[1].with_name("old"))
    with pytest.raises(SourceError, match=rf"process {os.getpid()}, which listened there, lives"):
        connected(place[0])
    place[1].with_name("old").rename(place[1])
    assert connected(place[0]).pid == os.getpid()


def test_a_process_that_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket alone decides."""
    monkeypatch.setattr(listener, "_pidfd", lambda _pid: None)
    path = tmp_path / "qmp"
    place = VmmSocket(str(path), None, QEMU)
    with listening(path):
        connected(place)
        path.rename(path.with_name("old"))
        with pytest.raises(Gone, match="QEMU ended"):
            connected(place)


def test_a_socket_that_refuses(tmp_path: Path) -> None:
    """Its process lives, but nobody can ever connect to that socket again."""
    path = tmp_path / "qmp"
    place = VmmSocket(str(path), None, QEMU)
    with listening(path):
        known = connected(place)
    with pytest.raises(Gone, match="QEMU ended") as caught:
        connected(place)
    assert isinstance(caught.value, PeerError)
    other = VmmSocket(str(path), known, QEMU)  # a watchdog in the place of a dead one
    with pytest.raises(Gone, match="QEMU ended"):
        connected(other)
    for each in (place, other):
        assert each._pidfd is not None
        os.close(each._pidfd)


def test_a_process_that_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
        "print(flush=True); sys.stdin.read()"
    )
    place = VmmSocket(str(path), None, QEMU)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert connected(place).pid == child.pid
    path.unlink()
    with pytest.raises(Gone):
        connected(place)
    with listening(path), pytest.raises(Gone, match="another socket is at its path"):
        connected(place)
    assert place._pidfd is not None
    os.close(place._pidfd)
