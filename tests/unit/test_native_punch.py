"""`punch_zero`: what is zero becomes a hole, and nothing else, however it is looked at."""

import contextlib
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.native import _native

PAGE, MIB = 4096, 1 << 20
KERNEL = _native.kernel_auto()
WRITE = 0x8  # F_SEAL_WRITE


@contextlib.contextmanager
def dense(pages: int, normal: dict[int, int]) -> Iterator[int]:
    """A memfd of zeros, all of it allocated; `normal`: the place of the one byte of a page."""
    fd = os.memfd_create("punched", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes(pages * PAGE))
    for page, at in normal.items():
        os.pwrite(fd, b"x", page * PAGE + at)
    try:
        yield fd
    finally:
        os.close(fd)


def allocated(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def punch(fd: int, size: int, unit: int = PAGE, *, mapped: bool = False) -> tuple[int, int]:
    return _native.punch_zero(fd, 0, size, unit, KERNEL, False, False, mapped)


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize("unit", [PAGE, 16 * PAGE, 64 * PAGE], ids=lambda u: f"{u >> 10}K")
@pytest.mark.parametrize("share", [0, 3, 50, 97])
def test_zero_units_become_holes_and_content_stays(unit: int, share: int, mapped: bool) -> None:
    choice = random.Random(share)
    pages = 3 * 512
    normal = {p: choice.randrange(PAGE) for p in range(pages) if choice.random() * 100 < share}
    units = pages * PAGE // unit
    kept = len({page * PAGE // unit for page in normal})
    with dense(pages, normal) as fd:
        before = os.pread(fd, pages * PAGE, 0)
        zero = (units - kept) * unit
        assert punch(fd, pages * PAGE, unit, mapped=mapped) == (pages * PAGE, zero)
        assert allocated(fd) == kept * unit
        assert os.pread(fd, pages * PAGE, 0) == before
        assert os.fstat(fd).st_size == pages * PAGE


@pytest.mark.parametrize("at", [0, 1, 63, 2047, 4032, 4095])
def test_one_byte_keeps_its_page(at: int) -> None:
    with dense(3, {1: at}) as fd:
        assert punch(fd, 3 * PAGE) == (3 * PAGE, 2 * PAGE)
        assert os.pread(fd, PAGE, PAGE)[at : at + 1] == b"x"


def test_only_the_range_is_punched() -> None:
    with dense(8, {}) as fd:
        assert _native.punch_zero(fd, 2 * PAGE, 5 * PAGE, PAGE, KERNEL, False, False, False) == (
            5 * PAGE,
            3 * PAGE,
        )
        assert allocated(fd) == 5 * PAGE


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_a_file_that_ends_early(mapped: bool) -> None:
    """Nothing past its end is touched, and what was decided is told."""
    with dense(600, {}) as fd:
        reached, zero = punch(fd, 1024 * PAGE, mapped=mapped)
        assert reached <= 600 * PAGE
        assert zero <= 600 * PAGE
        assert os.fstat(fd).st_size == 600 * PAGE


def test_without_its_lease_nothing_is_punched(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"x" * PAGE + bytes(3 * PAGE))
    fd = os.open(path, os.O_RDWR)
    try:
        size = 4 * PAGE
        assert _native.punch_zero(fd, 0, size, PAGE, KERNEL, True, False, False) == (PAGE, 0)
        assert allocated(fd) == size
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert _native.punch_zero(fd, 0, size, PAGE, KERNEL, True, False, True) == (size, 3 * PAGE)
    finally:
        os.close(fd)


def test_a_hole_that_fails_is_an_error() -> None:
    with dense(4, {}) as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, WRITE)
        with pytest.raises(PermissionError):
            punch(fd, 4 * PAGE)


@pytest.mark.parametrize(
    ("start", "end", "unit"), [(1, PAGE, PAGE), (0, PAGE + 1, PAGE), (PAGE, 0, PAGE), (0, 0, 12288)]
)
def test_a_range_of_parts_of_units_is_refused(start: int, end: int, unit: int) -> None:
    with dense(4, {}) as fd, pytest.raises(ValueError, match="out of range"):
        _native.punch_zero(fd, start, end, unit, KERNEL, False, False, False)


@pytest.mark.parametrize("unit", [PAGE, 4 * PAGE, 64 * PAGE], ids=lambda u: f"{u >> 10}K")
def test_holes_are_left_alone(unit: int) -> None:
    fd = os.memfd_create("sparse")
    try:
        os.ftruncate(fd, 1024 * PAGE)
        for page in range(0, 1024, 3):
            os.pwrite(fd, b"x" if page % 9 == 0 else b"\0", page * PAGE)
        before = os.pread(fd, 1024 * PAGE, 0)
        size = 1024 * PAGE
        reached, zero = _native.punch_zero(fd, 0, size, unit, KERNEL, False, True, False)
        assert reached == size
        normal = {page * PAGE // unit for page in range(0, 1024, 9)}
        data = {page * PAGE // unit for page in range(0, 1024, 3)}
        assert zero == len(data - normal) * unit
        assert os.pread(fd, size, 0) == before
    finally:
        os.close(fd)
