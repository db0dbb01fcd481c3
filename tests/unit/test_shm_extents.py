"""Extents of a file, by FIEMAP and by SEEK_DATA."""

import errno
import os
import struct
from itertools import pairwise

import pytest

from pagecheck.shm import extents
from pagecheck.shm.extents import DELALLOC, INLINE, LAST, UNWRITTEN, Extent, by_map, written

PAGE = 4096


class FakeFile:
    """A file system's FIEMAP: extents as (begin, length, flags) in bytes."""

    def __init__(self, known: list[tuple[int, int, int]], at_once: int = 512) -> None:
        self.known = known
        self.at_once = at_once
        self.asked: list[tuple[int, int, int]] = []

    def ioctl(self, _fd: int, request: int, buffer: bytearray, mutate: bool) -> int:
        assert request == 0xC020660B
        assert mutate
        start, length, flags, mapped, room, reserved = struct.unpack_from("=QQIIII", buffer)
        assert length > 0  # the kernel refuses an empty range
        assert mapped == reserved == 0
        self.asked.append((start, length, flags))
        inside = [k for k in self.known if k[0] + k[1] > start and k[0] < start + length]
        told = inside[: min(room, self.at_once)]
        struct.pack_into("=I", buffer, 20, len(told))
        for index, (begin, size, what) in enumerate(told):
            last = LAST if self.known and (begin, size, what) == self.known[-1] else 0
            struct.pack_into("=QQQQQI", buffer, 32 + 56 * index, begin, 7, size, 0, 0, what | last)
        return 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeFile:
    file = FakeFile([])
    monkeypatch.setattr(extents.fcntl, "ioctl", file.ioctl)
    return file


def test_no_extent(fake: FakeFile) -> None:
    assert list(by_map(0, 0, 1 << 40)) == []


def test_what_is_dirty_is_written_back_first(fake: FakeFile) -> None:
    list(by_map(0, PAGE, 9 * PAGE))
    assert fake.asked == [(PAGE, 8 * PAGE, 1)]


def test_many_extents_are_asked_for_in_pieces(fake: FakeFile) -> None:
    fake.known = [(2 * i * PAGE, PAGE, 0) for i in range(1000)]
    fake.at_once = 7
    found = [(e.begin, e.end) for e in by_map(0, 0, 2000 * PAGE)]
    assert found == [(2 * i * PAGE, (2 * i + 1) * PAGE) for i in range(1000)]
    assert all(flags == 1 for _start, _length, flags in fake.asked)
    assert all(a[0] < b[0] for a, b in pairwise(fake.asked))


def test_nothing_is_asked_for_behind_the_end(fake: FakeFile) -> None:
    fake.known = [(0, PAGE, 0), (PAGE, PAGE, 0)]
    assert list(by_map(0, 0, PAGE)) == [Extent(0, PAGE, 0)]


def test_extents_are_cut_to_what_was_asked_for(fake: FakeFile) -> None:
    fake.known = [(0, 10 * PAGE, UNWRITTEN), (10 * PAGE, 10 * PAGE, 0)]
    assert list(by_map(0, 5 * PAGE, 15 * PAGE)) == [
        Extent(5 * PAGE, 10 * PAGE, UNWRITTEN),
        Extent(10 * PAGE, 15 * PAGE, LAST),
    ]


def test_answers_that_overlap_go_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file that is written between two lookups."""
    answers = [[(0, 4 * PAGE, 0), (4 * PAGE, PAGE, 0)], [(2 * PAGE, 8 * PAGE, LAST)]]

    def ioctl(_fd: int, _request: int, buffer: bytearray, _mutate: bool) -> int:
        told = answers.pop(0)
        struct.pack_into("=I", buffer, 20, len(told))
        for index, (begin, size, flags) in enumerate(told):
            struct.pack_into("=QQQQQI", buffer, 32 + 56 * index, begin, 0, size, 0, 0, flags)
        return 0

    monkeypatch.setattr(extents.fcntl, "ioctl", ioctl)
    found = [(e.begin, e.end) for e in by_map(0, 0, 16 * PAGE)]
    assert found == [(0, 4 * PAGE), (4 * PAGE, 5 * PAGE), (5 * PAGE, 10 * PAGE)]


def always(monkeypatch: pytest.MonkeyPatch, begin: int) -> None:
    """FIEMAP answers with the same page, whatever it is asked."""

    def ioctl(_fd: int, _request: int, buffer: bytearray, _mutate: bool) -> int:
        struct.pack_into("=I", buffer, 20, 1)
        struct.pack_into("=QQQQQI", buffer, 32, begin, 0, PAGE, 0, 0, 0)
        return 0

    monkeypatch.setattr(extents.fcntl, "ioctl", ioctl)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("begin", [16 * PAGE, 20 * PAGE])
def test_an_extent_behind_the_end_is_the_end(monkeypatch: pytest.MonkeyPatch, begin: int) -> None:
    always(monkeypatch, begin)
    assert list(by_map(0, 0, 16 * PAGE)) == []


def test_a_file_system_that_repeats_itself_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, 0)
    with pytest.raises(OSError, match="makes no progress"):
        list(by_map(0, 0, 16 * PAGE))


def test_written_leaves_out_what_is_only_reserved() -> None:
    told = [Extent(0, 4, UNWRITTEN), Extent(4, 8, 0), Extent(8, 12, UNWRITTEN | LAST)]
    assert list(written(told)) == [(4, 8)]


def test_written_joins_what_meets() -> None:
    """With blocks of 1 KiB two extents may meet inside a page: no hole is there."""
    told = [Extent(0, 1024, 0), Extent(1024, 4096, DELALLOC), Extent(8192, 9000, INLINE)]
    assert list(written(told)) == [(0, 4096), (8192, 9000)]
    assert list(written([])) == []


def test_a_failing_seek_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ext4 fails with ENOENT where it keeps a file's bytes in the inode."""

    def lseek(_fd: int, at: int, whence: int) -> int:
        if at >= 4 * PAGE:
            raise OSError(errno.ENOENT, "no")
        return at + (PAGE if whence == os.SEEK_HOLE else 2 * PAGE)

    monkeypatch.setattr(extents.os, "lseek", lseek)
    with pytest.raises(OSError, match="no"):
        list(extents.by_seeking(0, 0, 16 * PAGE))


def test_seeking() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 16 * PAGE)
    for page in (2, 3, 8):
        os.pwrite(fd, b"x", page * PAGE)
    both = [(2 * PAGE, 4 * PAGE), (8 * PAGE, 9 * PAGE)]
    assert list(extents.by_seeking(fd, 0, 16 * PAGE)) == both
    assert list(extents.by_seeking(fd, 3 * PAGE, 8 * PAGE)) == [(3 * PAGE, 4 * PAGE)]
    assert list(extents.by_seeking(fd, 9 * PAGE, 16 * PAGE)) == []
    assert list(extents.by_seeking(fd, PAGE, PAGE)) == []
    os.close(fd)
