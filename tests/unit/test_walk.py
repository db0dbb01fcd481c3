"""Which pages of a block are looked at, and which its file's holes answer."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pagecheck.coordinator.block import Block
from pagecheck.coordinator.walk import Stretch, stretches
from pagecheck.model import Holes, Kind
from pagecheck.native import Walk
from pagecheck.plan import PartialPage, make_block
from pagecheck.shm.bitmaps import BlockBitmaps, bitmap_bytes
from pagecheck.shm.ram import open_source
from pagecheck.shm.segments import Memfd
from tests.support.bitmaps import bits
from tests.support.rams import PAGE

PAGES = 1000

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


def write(fd: int, data: NDArray[np.bool_]) -> None:
    for page in np.flatnonzero(data):
        os.pwrite(fd, b"x", int(page) * PAGE)


def walked(
    fd: int, kind: Kind = "full", most: int = 64, holes: Holes = "trust", page_size: int = PAGE
) -> tuple[list[Stretch], NDArray[np.bool_], NDArray[np.bool_]]:
    """The stretches, and the bits of hole and zero."""
    source = open_source(f"fd:{fd}")
    block = Block(0, source, make_block("ram", source.size, page_size), holes, "read")
    pages = block.ram.pages
    store = Memfd("bits", bitmap_bytes(pages))
    bitmaps = BlockBitmaps(store, pages)
    store.close()
    try:
        found = list(stretches(block, bitmaps, kind, most))
    finally:
        source.close()
    return found, bits(bitmaps.hole, pages), bits(bitmaps.zero, pages)


def looked_at(found: list[Stretch], hole: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    pages = np.zeros(len(hole), bool)
    end = 0
    for each in found:
        assert each.first >= end
        end = each.first + each.span
        pages[each.first : end] = ~hole[each.first : end]
        assert pages[each.first : end].sum() == each.pages
        assert each.pages in range(most + 1) or each.pages == each.span
    return pages


@pytest.mark.parametrize("kind", ["full", "diff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("most", [1, 64, 512])
def test_every_page_is_data_or_a_hole(
    fd: int, kind: Kind, share: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(1).random(PAGES) < share
    write(fd, data)
    before = os.fstat(fd).st_blocks
    found, hole, zero = walked(fd, kind, most)
    np.testing.assert_array_equal(hole, ~data)
    np.testing.assert_array_equal(zero, hole if kind == "full" else np.zeros(PAGES, bool))
    np.testing.assert_array_equal(looked_at(found, hole, most), data)
    assert os.fstat(fd).st_blocks == before


@pytest.mark.parametrize("kind", ["full", "diff"])
def test_stretches_are_filled(fd: int, kind: Kind) -> None:
    """Where each second page is a hole there is no batch for every page."""
    write(fd, np.arange(PAGES) % 2 == 0)
    found, _hole, _zero = walked(fd, kind, 100)
    assert sum(each.pages for each in found) == PAGES / 2
    assert len(found) <= 10  # 5, where no other process gets in between


@pytest.mark.parametrize("kind", ["full", "diff"])
def test_a_long_run_is_a_stretch_of_its_own(fd: int, kind: Kind) -> None:
    write(fd, np.isin(np.arange(PAGES), [1, 3, *range(10, 900), 990]))
    found, _hole, _zero = walked(fd, kind, 64)
    assert found == [Stretch(1, 3, 2), Stretch(10, 890, 890), Stretch(990, 1, 1)]


@pytest.mark.parametrize("kind", ["full", "diff"])
def test_a_stretch_may_be_full(fd: int, kind: Kind) -> None:
    write(fd, np.isin(np.arange(PAGES), [1, 3, 5, 7]))
    found, _hole, _zero = walked(fd, kind, 2)
    assert found == [Stretch(1, 3, 2), Stretch(5, 3, 2)]


def test_no_data(fd: int) -> None:
    found, hole, zero = walked(fd)
    assert found == []
    assert hole.all()
    assert zero.all()


def test_holes_that_are_read(fd: int) -> None:
    found, hole, zero = walked(fd, holes="read")
    assert found == [Stretch(0, PAGES, PAGES)]
    assert not hole.any()
    assert not zero.any()


def test_a_dense_file_is_not_walked(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write(fd, np.ones(PAGES, bool))
    monkeypatch.setattr("pagecheck.shm.ram.Walk", None)
    assert walked(fd)[0] == [Stretch(0, PAGES, PAGES)]


def test_a_page_that_is_part_hole(fd: int) -> None:
    """Has data in a full snapshot; of a diff nothing can be said."""
    write(fd, np.arange(PAGES) == 6)
    found, hole, _zero = walked(fd, page_size=4 * PAGE)
    assert found == [Stretch(1, 1, 1)]
    assert np.flatnonzero(~hole).tolist() == [1]
    with pytest.raises(PartialPage):
        walked(fd, "diff", page_size=4 * PAGE)


def test_a_descriptor_that_is_not_ours_alone_is_not_walked(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its offset is others', too."""
    monkeypatch.setattr("pagecheck.shm.ram.RamSource.holes_are_proof", False)
    assert walked(fd)[0] == [Stretch(0, PAGES, PAGES)]


def test_arguments() -> None:
    words = bytearray(16)
    with pytest.raises(ValueError, match="hole: 16 bytes, needs 24"):
        Walk(0, 0, PAGE, 129, words, words)
    for start, page, pages in ((1 << 63, PAGE, 1), (0, 0, 1), (0, 1 << 62, 2), (0, PAGE, 1 << 62)):
        with pytest.raises(ValueError, match="outside of any file"):
            Walk(0, start, page, pages, words, words)
