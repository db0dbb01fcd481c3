"""Segments: allocated at once, private, removed by their creator only."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError
from pagecheck.shm import segments
from pagecheck.shm.owner import Owner
from pagecheck.shm.segments import Segment

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def name() -> Iterator[str]:
    owner = Owner()
    yield owner.name("t")
    owner.close()


def path_of(name: str) -> Path:
    return Path("/dev/shm") / name[1:]


def test_it_is_allocated_and_private(name: str) -> None:
    segment = Segment(name, 100_000)
    st = os.fstat(segment.fd)
    assert st.st_size == 100_000
    assert st.st_blocks * 512 >= 100_000
    assert st.st_mode & 0o777 == 0o600
    segment.remove()
    segment.close()


def test_remove_keeps_the_memory(name: str) -> None:
    segment = Segment(name, 4096)
    segment.remove()
    assert not path_of(name).exists()
    assert os.pwrite(segment.fd, b"x", 4095) == 1
    segment.remove()
    segment.close()
    segment.close()


def test_an_existing_name_is_refused_and_kept(name: str) -> None:
    path_of(name).write_bytes(b"mine")
    try:
        with pytest.raises(ResourceError, match="cannot create"):
            Segment(name, 4096)
        assert path_of(name).read_bytes() == b"mine"
    finally:
        path_of(name).unlink()


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "/dev/shm is full: 4096 bytes"), (errno.EFBIG, "cannot allocate")],
)
def test_no_room(monkeypatch: pytest.MonkeyPatch, name: str, code: int, text: str) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(segments.os, "posix_fallocate", refuse)
    with pytest.raises(ResourceError, match=text):
        Segment(name, 4096)
    assert not path_of(name).exists()


def test_really_no_room(name: str) -> None:
    st = os.statvfs("/dev/shm")
    with pytest.raises(ResourceError, match="is full"):
        Segment(name, st.f_blocks * st.f_frsize * 2)
    assert not path_of(name).exists()
