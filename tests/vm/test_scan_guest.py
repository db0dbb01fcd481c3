"""pagecheck against an independent answer, on a real guest's RAM: paused, and as a snapshot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import pagecheck
from pagecheck.model import Access
from tests.support.bitmaps import bits
from tests.support.oracle import hole_pages, zero_pages
from tools.guest import Guest
from tools.guest.snapshot import copy_sparse

PAGE_SIZES = [4096, 16384, 2 << 20]


def allocated(path: str | Path) -> int:
    return os.stat(path).st_blocks


@pytest.fixture(scope="module")
def snapshot(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "guest.ram"
    copy_sparse(Path(guest.ram_path), path)
    return path


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_every_page_of_the_paused_guest(guest: Guest, page_size: int) -> None:
    path = str(guest.ram_path)
    before = allocated(path)
    report = pagecheck.scan(path, page_size=page_size, channels=2)
    (block,) = report.blocks
    size = os.stat(path).st_size
    expected = zero_pages(path, page_size, size)
    assert np.array_equal(bits(block.zero, block.block.pages), expected)
    assert np.array_equal(bits(block.normal, block.block.pages), ~expected)
    assert report.total.undecided == 0
    assert 0 < report.total.zero < report.total.pages
    assert report.answer == "live", "QEMU maps it writable, and it was not we who paused it"
    assert allocated(path) == before


@pytest.mark.parametrize("access", ["map", "read"])
def test_checks_of_the_paused_guest(guest: Guest, access: Access) -> None:
    path = str(guest.ram_path)
    before = allocated(path)
    size = os.stat(path).st_size
    expected = zero_pages(path, 4096, size)
    rng = np.random.default_rng(7)
    with pagecheck.Coordinator(2) as coordinator:
        block = coordinator.attach(path, access=access)
        for count in (1, 128, 5000):
            pages = rng.integers(0, size // 4096, count)
            answer = coordinator.check(block, pages.astype(np.uint64) * 4096)
            assert answer.decided.all()
            assert np.array_equal(answer.zero, expected[pages])
        report = coordinator.scan(block)
        assert np.array_equal(bits(report.blocks[0].zero, block.ram.pages), expected)
    assert allocated(path) == before


def test_holes_are_what_the_guest_never_touched(guest: Guest) -> None:
    path = str(guest.ram_path)
    report = pagecheck.scan(path)
    holes = hole_pages(Path(path), 4096)
    assert report.total.hole == int(np.count_nonzero(holes))
    read = pagecheck.scan(path, holes="read")
    assert (read.total.zero, read.total.normal) == (report.total.zero, report.total.normal)
    assert read.total.hole == 0


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_snapshot_of_it_gives_the_same(guest: Guest, snapshot: Path, page_size: int) -> None:
    live = pagecheck.scan(str(guest.ram_path), page_size=page_size)
    stored = pagecheck.scan(snapshot, page_size=page_size)
    assert bytes(stored.blocks[0].zero) == bytes(live.blocks[0].zero)
    assert stored.total.zero == live.total.zero
    assert stored.answer == "at-rest"


def test_the_guest_is_well_afterwards(guest: Guest) -> None:
    guest.resume()
    try:
        assert "OK" in guest.wait_check()
    finally:
        guest.pause()
