"""Files that are cut, grown or written between and during scans and checks."""

import os
import signal
import threading

import numpy as np
import pytest

from pagecheck import Coordinator
from tests.support.known_ram import KnownRam, assert_scan_is_right, dense_ram
from tests.support.processes import stop
from tests.support.rams import PAGE
from tests.support.ring import RingView
from tests.support.waiting import Background, wait_for

ACCESS = pytest.mark.parametrize("access", ["map", "read"])
CUTS = pytest.mark.parametrize("cut", [600 * PAGE, 600 * PAGE + 1234, 0], ids=["at", "in", "all"])


def assert_cut(report, ram: KnownRam, cut: int) -> None:
    """Pages past the cut are undecided, in a note that names block and offset."""
    inside = cut // PAGE
    assert_scan_is_right(report, ram, set(range(inside, ram.pages)))
    assert len(report.notes) == 1
    assert report.blocks[0].block.name in report.notes[0]
    assert f"{inside * PAGE:#x}" in report.notes[0]
    assert f"{cut:#x} bytes" in report.notes[0]


@ACCESS
@CUTS
def test_cut_between_attach_and_scan(ram: KnownRam, access: str, cut: int):
    with Coordinator(1) as c:
        block = c.attach(ram.source, access=access)
        assert_scan_is_right(c.scan(block), ram)
        os.ftruncate(ram.fd, cut)
        assert_cut(c.scan(block), ram, cut)
        answer = c.check(block, ram.offsets)
        inside = cut // PAGE
        assert (answer.zero == (ram.zero & (np.arange(ram.pages) < inside))).all()
        assert (answer.decided == (np.arange(ram.pages) < inside)).all()
        assert "0x" in answer.notes[0]
        assert c.workers_replaced == 0  # no SIGBUS reached anybody


def test_cut_after_the_answer(ram: KnownRam, monkeypatch: pytest.MonkeyPatch):
    """The worker saw the whole file: what is cut off since is undecided, from its first page on."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        monkeypatch.setattr(type(block.source), "size", 100 * PAGE)
        answer = c.check(block, ram.offsets)
        assert (answer.decided == (np.arange(ram.pages) < 100)).all()
        assert (answer.zero == (ram.zero & answer.decided)).all()


@ACCESS
@CUTS
def test_cut_while_batches_wait(ram: KnownRam, access: str, cut: int):
    """The worker is stopped with batches given out, the file cut, the worker continued."""
    with Coordinator(1, batch_pages=64) as c:
        block = c.attach(ram.source, access=access)
        pid = c.worker_pids[0]
        stop(pid)
        scan = Background(lambda: c.scan(block))
        wait_for(lambda: _is_out(c), "batches given out")
        os.ftruncate(ram.fd, cut)
        os.kill(pid, signal.SIGCONT)
        assert_cut(scan.result(), ram, cut)
        assert c.workers_replaced == 0


def _is_out(c: Coordinator) -> bool:
    view = RingView(c.segment_names[0])
    try:
        return view.is_submitted(16)
    finally:
        view.close()


@ACCESS
def test_cut_again_and_again_under_a_scan(access: str):
    """A truncation at any moment: SIGBUS, short reads and zero-filled tails, never a wrong zero."""
    ram = dense_ram(8192, normal_share=1.0)
    ended = threading.Event()
    with Coordinator(2, batch_pages=256) as c:
        block = c.attach(ram.source, access=access)

        def saw() -> None:
            """Ever shorter, so that no page which is cut off comes back as a hole."""
            left = ram.size
            while not ended.is_set() and left > 0:
                left = max(left - 1000, 0)
                os.ftruncate(ram.fd, left)

        cutter = Background(saw)
        try:
            for _ in range(20):
                counts = c.scan(block).total
                assert counts.zero == 0
                assert counts.normal + counts.undecided == ram.pages
                assert not c.check(block, ram.offsets).zero.any()
        finally:
            ended.set()
            cutter.result()
        assert c.workers_replaced == 0
    ram.close()


def test_tail_of_the_last_page_is_not_taken_for_zero():
    """One byte of a page is left in the file, and it is zero: the page is not all there."""
    ram = dense_ram(64, normal_share=0.0)
    with Coordinator(1) as c:
        for access in ("map", "read"):
            block = c.attach(ram.source, access=access)
            os.ftruncate(ram.fd, 63 * PAGE + 1)
            report = c.scan(block)
            assert report.total.zero == 63
            assert report.total.undecided == 1
            answer = c.check(block, ram.offsets[-1:])
            assert not answer.zero.any()
            assert not answer.decided.any()
            os.ftruncate(ram.fd, ram.size)
    ram.close()


def test_large_page_that_is_cut_inside():
    ram = dense_ram(1024, normal_share=0.0)
    with Coordinator(1) as c:
        for access in ("map", "read"):
            block = c.attach(ram.source, access=access, page_size=1 << 20)
            os.ftruncate(ram.fd, (3 << 20) + PAGE)
            report = c.scan(block)
            assert (report.total.zero, report.total.undecided) == (3, 1)
            os.ftruncate(ram.fd, ram.size)
    ram.close()


def test_hole_past_the_new_end_is_no_hole():
    """SEEK_DATA past the end says ENXIO, as for a hole up to the end."""
    ram = dense_ram(64, normal_share=1.0)
    os.ftruncate(ram.fd, 1024 * PAGE)
    with Coordinator(1) as c:
        for access in ("map", "read"):
            block = c.attach(ram.source, access=access)
            os.ftruncate(ram.fd, 512 * PAGE)
            report = c.scan(block)
            assert report.total.undecided == 512
            assert report.total.hole == report.total.zero == 448
            assert not c.check(block, np.arange(512, 1024) * PAGE).zero.any()
            os.ftruncate(ram.fd, 1024 * PAGE)
    ram.close()


def test_growth_is_reported_and_ignored(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)

        def grow(done: int, total: int) -> None:
            os.ftruncate(ram.fd, ram.size + 100 * PAGE)

        report = c.scan(block, max_rate=32 << 20, progress=grow)
        assert_scan_is_right(report, ram)
        assert len(report.notes) == 1
        assert "grew" in report.notes[0]
        assert report.answer == "live"
        assert report.total.undecided == 0
