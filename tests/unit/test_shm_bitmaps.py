"""The bitmaps of one scan."""

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.native import _native
from pagecheck.shm.bitmaps import BlockBitmaps, bitmap_bytes
from pagecheck.shm.owner import Owner
from pagecheck.shm.segments import Memfd, Segment

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


def made(owner: Owner, pages: int) -> BlockBitmaps:
    segment = Segment(owner.name("b"), bitmap_bytes(pages))
    bitmaps = BlockBitmaps(segment, pages)
    segment.close()
    return bitmaps


@pytest.mark.parametrize(("pages", "size"), [(1, 8), (64, 8), (65, 16), (1 << 20, 1 << 17)])
def test_words_hold_every_page(owner: Owner, pages: int, size: int) -> None:
    bitmaps = made(owner, pages)
    for words in (bitmaps.zero, bitmaps.normal, bitmaps.hole):
        assert len(words) == size
        assert not any(words)
    bitmaps.remove()


def test_the_three_do_not_overlap(owner: Owner) -> None:
    bitmaps = made(owner, 100)
    _native.bits_set(bitmaps.normal, 0, 128)
    assert not any(bitmaps.zero)
    assert not any(bitmaps.hole)
    bitmaps.remove()


def filled(owner: Owner) -> BlockBitmaps:
    """100 pages: 40 zero of which 10 holes, 30 normal, 30 undecided."""
    bitmaps = made(owner, 100)
    _native.bits_set(bitmaps.zero, 0, 40)
    _native.bits_set(bitmaps.hole, 0, 10)
    _native.bits_set(bitmaps.normal, 40, 30)
    bitmaps.remove()
    return bitmaps


def test_counts_of_a_full_scan(owner: Owner) -> None:
    found = filled(owner).counts(diff=False)._asdict()
    assert found == {
        "pages": 100,
        "zero": 40,
        "hole": 10,
        "normal": 30,
        "undecided": 30,
        "unchanged": 0,
        "swapped": 0,
    }


def test_counts_of_a_diff(owner: Owner) -> None:
    bitmaps = filled(owner)
    _native.bits_clear(bitmaps.zero, 0, 10)
    found = bitmaps.counts(diff=True)._asdict()
    assert found == {
        "pages": 100,
        "zero": 30,
        "hole": 0,
        "normal": 30,
        "undecided": 30,
        "unchanged": 10,
        "swapped": 0,
    }


@pytest.mark.parametrize(
    ("page", "zero", "hole", "normal"),
    [(0, 0, 0, 0), (5, 5, 5, 0), (50, 40, 10, 10), (100, 40, 10, 30)],
)
def test_forget_from(owner: Owner, page: int, zero: int, hole: int, normal: int) -> None:
    bitmaps = filled(owner)
    bitmaps.forget_from(page)
    counts = bitmaps.counts(diff=False)
    assert (counts.zero, counts.hole, counts.normal) == (zero, hole, normal)


def test_views_outlive_the_name(owner: Owner) -> None:
    bitmaps = made(owner, 64)
    path = Path("/dev/shm") / owner.name("b")[1:]
    assert path.exists()
    words = bitmaps.zero
    _native.bits_set(words, 3, 1)
    bitmaps.remove()
    assert not path.exists()
    del bitmaps
    assert words[0] == 8


def test_two_blocks_in_a_sealed_memfd() -> None:
    """Who gets the descriptor can neither write nor resize; we still can write."""
    first, second = bitmap_bytes(70), bitmap_bytes(64)
    memory = Memfd("bitmaps", first + second)
    one, two = BlockBitmaps(memory, 70), BlockBitmaps(memory, 64, first)
    memory.seal(read_only=True)
    _native.bits_set(one.zero, 0, 70)
    _native.bits_set(two.normal, 63, 1)
    raw = os.pread(memory.fd, 4096, 0)
    assert len(raw) == first + second
    assert raw[:16] == bytes([255] * 8 + [0b111111] + [0] * 7)
    assert raw[first + 8 : first + 16] == bytes([0] * 7 + [128])
    for wrong in (
        lambda: os.pwrite(memory.fd, b"x", 0),
        lambda: os.ftruncate(memory.fd, 8),
        lambda: os.ftruncate(memory.fd, 8192),
        lambda: mmap.mmap(memory.fd, 8),
        lambda: fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            wrong()
    memory.close()
