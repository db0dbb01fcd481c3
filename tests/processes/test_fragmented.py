"""Files with a hole for every few pages: right, and not a batch for each run of pages."""

import ctypes
import os
import signal
import threading

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator.scan import ScanWork
from tests.support.bitmaps import bits
from tests.support.rams import PAGE

PAGES = 20_000
BATCH = 512


class Fragments:
    """A memfd of short runs of data and holes, with the truth about every page."""

    def __init__(self, seed: int, longest: int) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, longest + 1, PAGES)
        data = np.repeat(np.arange(PAGES) % 2 == 0, lengths)[:PAGES]
        self.hole = ~data
        self.zero = self.hole | (rng.random(PAGES) < 0.5)
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, PAGES * PAGE)
        for page in np.flatnonzero(data).tolist():
            content = bytes(PAGE) if self.zero[page] else b"\1".rjust(1 + page % PAGE, b"\0")
            os.pwrite(self.fd, content, page * PAGE)
        self.blocks = os.fstat(self.fd).st_blocks

    def __enter__(self) -> "Fragments":
        return self

    def __exit__(self, *_: object) -> None:
        assert os.fstat(self.fd).st_blocks == self.blocks
        os.close(self.fd)

    def assert_right(self, report) -> None:
        block = report.blocks[0]
        np.testing.assert_array_equal(bits(block.zero, PAGES), self.zero)
        np.testing.assert_array_equal(bits(block.normal, PAGES), ~self.zero)
        assert block.counts.hole == self.hole.sum()
        assert report.bytes_checked == (~self.hole).sum() * PAGE
        assert not report.notes


@pytest.mark.parametrize("longest", [1, 3, 40, 2000])
@pytest.mark.parametrize("access", ["map", "read"])
@pytest.mark.parametrize(
    "engine", [{"engine": "cpu"}, {"engine": "dsa", "wq": ["model:"]}], ids=["cpu", "dsa"]
)
def test_right_in_few_batches(longest: int, access: str, engine: dict):
    with Fragments(longest, longest) as ram, Coordinator(2, batch_pages=BATCH, **engine) as c:
        report = c.scan(c.attach(f"fd:{ram.fd}", access=access))
        ram.assert_right(report)
        answered = report.statistics.answered
        runs = (np.diff(ram.hole) != 0).sum() / 2
        assert answered <= 2 * PAGES / BATCH + min(runs, PAGES / BATCH) + 2


@pytest.mark.parametrize("kind", ["full", "diff"])
def test_a_worker_that_dies_on_the_way(kind: str, monkeypatch: pytest.MonkeyPatch):
    """What it left is submitted again, to another worker, with the same pages."""
    take = ScanWork.take
    killed: set[int] = set()

    def take_and_kill(work: ScanWork) -> tuple[int, int] | None:
        taken = take(work)
        if taken is not None and taken[0] and len(killed) == c.workers_replaced < 2:
            killed.add(c.worker_pids[0])
            os.kill(c.worker_pids[0], signal.SIGKILL)
        return taken

    monkeypatch.setattr(ScanWork, "take", take_and_kill)
    with Fragments(5, 3) as ram, Coordinator(1, batch_pages=BATCH) as c:
        report = c.scan(c.attach(f"fd:{ram.fd}"), kind=kind)
        block = report.blocks[0]
        assert c.workers_replaced == 2
        np.testing.assert_array_equal(bits(block.normal, PAGES), ~ram.zero)
        zero = ram.zero if kind == "full" else ram.zero & ~ram.hole
        np.testing.assert_array_equal(bits(block.zero, PAGES), zero)
        assert block.counts.unchanged == (ram.hole.sum() if kind == "diff" else 0)


def test_stopped_on_the_way(monkeypatch: pytest.MonkeyPatch):
    """The deadline passes: every page is zero, normal or undecided, and nothing is wrong."""
    take = ScanWork.take

    def take_late(work: ScanWork) -> tuple[int, int] | None:
        if work.done_pages > PAGES / 2:
            work._deadline_ns = 0
        return take(work)

    monkeypatch.setattr(ScanWork, "take", take_late)
    with Fragments(6, 3) as ram, Coordinator(1, batch_pages=BATCH) as c:
        block = c.scan(c.attach(f"fd:{ram.fd}")).blocks[0]
        zero, normal = bits(block.zero, PAGES), bits(block.normal, PAGES)
        assert not (zero & ~ram.zero).any()
        assert not (normal & ram.zero).any()
        assert PAGES / 2 < (zero | normal).sum() == PAGES - block.counts.undecided < PAGES


def test_punched_and_written_on_the_way(monkeypatch: pytest.MonkeyPatch):
    """Changes behind the walk are seen or not, page by page; no page is both, none is allocated."""
    take = ScanWork.take
    libc = ctypes.CDLL(None, use_errno=True)
    rng = np.random.default_rng(8)

    def change(fd: int, page: int) -> None:
        mode, at, length = 3, ctypes.c_long(page * PAGE), ctypes.c_long(PAGE)  # punch, keep size
        assert libc.fallocate(fd, mode, at, length) == 0

    def take_and_change(work: ScanWork) -> tuple[int, int] | None:
        with one_at_a_time:  # else an older count of blocks may be the last that is kept
            for page in rng.integers(0, PAGES, 50).tolist():
                change(ram.fd, page)
                punched.add(page)
            ram.blocks = os.fstat(ram.fd).st_blocks
        return take(work)

    punched: set[int] = set()
    one_at_a_time = threading.Lock()
    monkeypatch.setattr(ScanWork, "take", take_and_change)
    with Fragments(7, 2) as ram, Coordinator(2, batch_pages=64) as c:
        block = c.scan(c.attach(f"fd:{ram.fd}", access="read")).blocks[0]
        zero, normal = bits(block.zero, PAGES), bits(block.normal, PAGES)
        same = np.ones(PAGES, bool)
        same[list(punched)] = False
        np.testing.assert_array_equal(zero ^ normal, np.ones(PAGES, bool))
        np.testing.assert_array_equal(zero[same], ram.zero[same])


def test_few_batches_for_scattered_data():
    """64 GiB of holes with 1 000 pages far apart: the walk gathers them."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 1 << 36)
    pages = np.random.default_rng(1).choice((1 << 36) // PAGE, 1000, replace=False)
    for page in pages.tolist():
        os.pwrite(fd, b"x", page * PAGE)
    with Coordinator(1, batch_pages=BATCH) as c:
        report = c.scan(c.attach(f"fd:{fd}"))
        assert (report.total.normal, report.total.hole) == (1000, (1 << 36) // PAGE - 1000)
        assert report.statistics.answered <= 3
        normal = bits(report.blocks[0].normal, (1 << 36) // PAGE)
        assert set(np.flatnonzero(normal)) == set(pages.tolist())
    os.close(fd)
