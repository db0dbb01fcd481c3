"""RAM sources: opened once, read-only, never changed by looking."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.native import _native
from pagecheck.shm import ram
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import open_source

PAGE = 4096
KEEP_SIZE = 1

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def memfd() -> Iterator[int]:
    """16 pages, of which 2, 3 and 8 were written."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 16 * PAGE)
    for page in (2, 3, 8):
        os.pwrite(fd, b"x", page * PAGE)
    yield fd
    os.close(fd)


def test_path(tmp_path: Path) -> None:
    path = tmp_path / "guest.ram"
    path.write_bytes(bytes(PAGE))
    source = open_source(path)
    assert (source.text, source.name, source.size) == (str(path), "guest.ram", PAGE)
    with pytest.raises(OSError, match="Bad file"):
        os.pwrite(source.fd, b"x", 0)
    assert not os.get_inheritable(source.fd)
    source.close()
    source.close()


def test_shared_memory_name(shm_folder: Path) -> None:
    path = Path("/dev/shm") / f"{shm_folder.name}.ram"
    path.write_bytes(bytes(PAGE))
    try:
        source = open_source(f"shm:/{path.name}")
        assert (source.name, source.size) == (path.name, PAGE)
        source.close()
        assert path.exists()
    finally:
        path.unlink()


def test_descriptor(memfd: int) -> None:
    source = open_source(f"fd:{memfd}")
    assert source.fd != memfd
    assert source.size == 16 * PAGE
    source.close()
    os.fstat(memfd)


def test_the_callers_file_offset_stays(memfd: int) -> None:
    os.lseek(memfd, 5 * PAGE, os.SEEK_SET)
    source = open_source(f"fd:{memfd}")
    assert len(list(by_seeking(source.fd, 0, 16 * PAGE))) == 2
    source.close()
    assert os.lseek(memfd, 0, os.SEEK_CUR) == 5 * PAGE


def test_a_descriptor_that_cannot_be_opened_anew_is_never_moved(
    memfd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    os.lseek(memfd, PAGE, os.SEEK_SET)
    monkeypatch.setattr(ram.os, "open", refused)
    source = open_source(f"fd:{memfd}")
    assert not source.holes_are_proof
    assert not source.flags(trust_holes=True) & _native.TRUST_HOLES
    assert source.dense_bytes() == 0
    source.close()
    assert os.lseek(memfd, 0, os.SEEK_CUR) == PAGE


def test_a_failing_lookup_is_no_hole(memfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked up is not known to be dense."""
    for page in range(16):
        os.pwrite(memfd, b"x", page * PAGE)
    source = open_source(f"fd:{memfd}")
    assert source.dense_bytes() == 16 * PAGE

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(ram.os, "lseek", failing)
    assert source.dense_bytes() == 0
    source.close()


def test_blocks_past_the_end_do_not_fill_holes(memfd: int) -> None:
    past = ctypes.c_long(16 * PAGE), ctypes.c_long(13 * PAGE)
    assert ctypes.CDLL(None).fallocate(memfd, KEEP_SIZE, *past) == 0
    source = open_source(f"fd:{memfd}")
    assert source.looks_dense  # 3 pages and 13 past the end, of 16
    assert source.dense_bytes() == 0
    source.close()


@pytest.mark.parametrize("trust", [False, True])
def test_tmpfs_flags(memfd: int, trust: bool) -> None:
    source = open_source(f"fd:{memfd}")
    flags = source.flags(trust_holes=trust)
    source.close()
    assert flags == _native.ASK_RESIDENT | (_native.TRUST_HOLES if trust else 0)


@pytest.mark.parametrize(
    ("magic", "proof", "maps", "free"),
    [
        (ram.TMPFS, True, True, False),
        (0xEF53, True, True, True),
        (0x58465342, True, True, True),
        (0x9123683E, True, True, True),
        (ram.HUGETLBFS, False, False, False),
        (0x6969, False, False, False),
        (0x794C7630, False, False, False),
    ],
)
def test_what_a_file_system_is_trusted_with(
    memfd: int, magic: int, proof: bool, maps: bool, free: bool
) -> None:
    source = open_source(f"fd:{memfd}")
    source.magic = magic
    assert source.holes_are_proof is proof
    assert source.can_map(0, 16 * PAGE) is maps
    flags = source.flags(trust_holes=True)
    source.close()
    assert bool(flags & _native.TOUCH_FREELY) is free
    assert bool(flags & _native.TRUST_HOLES) is proof


def test_looking_changes_nothing(memfd: int) -> None:
    before = os.fstat(memfd)
    source = open_source(f"fd:{memfd}")
    source.dense_bytes()
    source.close()
    after = os.fstat(memfd)
    assert (before.st_blocks, before.st_mtime_ns) == (after.st_blocks, after.st_mtime_ns)
