"""Scans of selected pages, and scans that take turns."""

import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck import Coordinator
from pagecheck.coordinator.select import WINDOW_PAGES, Bitmap, Ranges, windows
from pagecheck.errors import UsageError
from pagecheck.shm.layout import statistic
from tests.support.bitmaps import bits
from tests.support.known_ram import dense_ram
from tests.support.waiting import Background, wait_for


def chosen(selection, pages: int) -> np.ndarray:
    return np.concatenate([selection.window(first, count) for first, count in windows(pages)])


def bitmap_file(wanted: np.ndarray) -> int:
    fd = os.memfd_create("bitmap")
    raw = np.packbits(wanted, bitorder="little").tobytes()
    os.write(fd, raw + bytes(-len(raw) % 8))
    return fd


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 1000)), max_size=8))
def test_ranges_select_what_they_say(ranges):
    ranges = [(first, min(count, 1000 - first)) for first, count in ranges]
    expected = np.zeros(1000, bool)
    for first, count in ranges:
        expected[first : first + count] = True
    np.testing.assert_array_equal(chosen(Ranges(ranges, 1000), 1000), expected)


def test_windows_join_without_a_seam():
    pages = WINDOW_PAGES + 77
    edge = [(WINDOW_PAGES - 3, 5), (pages - 1, 1), (0, 1)]
    found = np.flatnonzero(chosen(Ranges(edge, pages), pages)).tolist()
    assert found == [0, *range(WINDOW_PAGES - 3, WINDOW_PAGES + 2), pages - 1]
    fd = bitmap_file(chosen(Ranges(edge, pages), pages))
    assert np.flatnonzero(chosen(Bitmap(fd, pages), pages)).tolist() == found
    os.close(fd)


@pytest.mark.parametrize("wrong", [(-1, 1), (0, 0), (0, 101), (100, 1), (99, 2), (1 << 70, 1)])
def test_a_range_outside_is_named(wrong):
    with pytest.raises(UsageError, match=r"ranges\[1\]"):
        Ranges([(0, 100), wrong], 100)


def test_a_bitmap_that_is_too_short_or_becomes_so():
    fd = bitmap_file(np.ones(64, bool))
    with pytest.raises(UsageError, match="8 bytes: a block of 65 pages needs 16"):
        Bitmap(fd, 65)
    selection = Bitmap(fd, 64)
    os.ftruncate(fd, 4)
    with pytest.raises(UsageError, match="truncated"):
        selection.window(0, 64)
    os.close(fd)


def test_a_bitmap_that_ends_with_its_pages():
    fd = bitmap_file(np.ones(128, np.bool_))
    assert os.fstat(fd).st_size == 16
    assert Bitmap(fd, 128).window(64, 64).all()
    os.close(fd)


@pytest.fixture
def ram():
    made = dense_ram(5003)
    yield made
    made.close()


@pytest.mark.parametrize("window", [WINDOW_PAGES, 1024])
def test_only_selected_pages_are_answered(ram, window, monkeypatch):
    monkeypatch.setattr("pagecheck.coordinator.select.WINDOW_PAGES", window)
    rng = np.random.default_rng(3)
    with Coordinator(2) as c:
        block = c.attach(ram.source)
        before = ram.st_blocks
        for share in (0.0, 0.001, 0.01, 0.3, 0.9, 1.0):
            wanted = rng.random(ram.pages) < share
            fd = bitmap_file(wanted)
            result = c.scan_block(block, selection=Bitmap(fd, ram.pages))
            os.close(fd)
            zero, normal = ram.zero & wanted, ~ram.zero & wanted
            np.testing.assert_array_equal(bits(result.report.zero, ram.pages), zero)
            np.testing.assert_array_equal(bits(result.report.normal, ram.pages), normal)
            counts = result.report.counts
            assert (counts.pages, counts.undecided) == (wanted.sum(), 0)
            assert (counts.zero, counts.normal) == (zero.sum(), normal.sum())
        assert ram.st_blocks == before


def test_a_deadline_leaves_selected_pages_undecided(ram):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        pid = c.worker_pids[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            result = c.scan_block(block, selection=Ranges([(0, 100)], ram.pages), deadline=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert result.report.counts.undecided == 100
        assert any("deadline" in note for note in result.notes)


def test_a_second_scan_does_not_wait_for_the_first():
    """The first takes 8 s by itself."""
    large, small = dense_ram(40000), dense_ram(500, seed=2)
    try:
        with Coordinator(1) as c:
            one, two = c.attach(large.source), c.attach(small.source)
            first = Background(lambda: c.scan(one, max_rate=20 << 20))
            wait_for(
                lambda: statistic(c.statistics()[0].words, "answered") > 2,
                "the first scan is at work",
            )
            begun = time.monotonic()
            report = c.scan(two)
            assert time.monotonic() - begun < 4
            assert report.total.zero == np.count_nonzero(small.zero)
            assert not first.ended
    finally:
        large.close()
        small.close()


def test_turns_are_taken_in_the_order_of_asking(ram, monkeypatch):
    """Many scans on one channel: every one of them ends, and none of them is wrong."""
    monkeypatch.setattr("pagecheck.coordinator.pool.TURN_NS", 0)
    with Coordinator(1, batch_pages=16) as c:
        blocks = [c.attach(ram.source) for _ in range(6)]
        scans = [Background(lambda b=block: c.scan(b)) for block in blocks]
        checks = [c.check(blocks[0], ram.offsets[:512]) for _ in range(20)]
        for check in checks:
            np.testing.assert_array_equal(check.zero, ram.zero[:512])
        for scan in scans:
            total = scan.result(30).total
            assert (total.zero, total.undecided) == (np.count_nonzero(ram.zero), 0)
