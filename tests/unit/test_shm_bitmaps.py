"""The bitmaps of one scan."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.native import _native
from pagecheck.shm.bitmaps import BlockBitmaps
from pagecheck.shm.owner import Owner

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


@pytest.mark.parametrize(("pages", "size"), [(1, 8), (64, 8), (65, 16), (1 << 20, 1 << 17)])
def test_words_hold_every_page(owner: Owner, pages: int, size: int) -> None:
    bitmaps = BlockBitmaps(owner, "b", pages)
    for words in (bitmaps.zero, bitmaps.normal, bitmaps.hole):
        assert len(words) == size
        assert not any(words)
    bitmaps.remove()


def test_the_three_do_not_overlap(owner: Owner) -> None:
    bitmaps = BlockBitmaps(owner, "b", 100)
    _native.bits_set(bitmaps.normal, 0, 128)
    assert not any(bitmaps.zero)
    assert not any(bitmaps.hole)
    bitmaps.remove()


def filled(owner: Owner) -> BlockBitmaps:
    """100 pages: 40 zero of which 10 holes, 30 normal, 30 undecided."""
    bitmaps = BlockBitmaps(owner, "b", 100)
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
    bitmaps = BlockBitmaps(owner, "b", 64)
    path = Path("/dev/shm") / owner.name("b")[1:]
    assert path.exists()
    words = bitmaps.zero
    _native.bits_set(words, 3, 1)
    bitmaps.remove()
    assert not path.exists()
    del bitmaps
    assert words[0] == 8
