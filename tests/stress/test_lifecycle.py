"""Long lives: workers that die now and then, blocks that come and go, beside running work."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block
from pagecheck.errors import UsageError
from tests.support.bitmaps import bits
from tests.support.rams import HOLE, ZEROS, Page, Ram, memfd

PAGES = 256
KEEP_SIZE = 1

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def ram() -> Iterator[Ram]:
    """Every fourth page is normal, the others are zero, written or holes."""
    with memfd() as made:
        made.fill([Page(7), ZEROS, HOLE, HOLE] * (PAGES // 4), 4096)
        yield made


OFFSETS = np.arange(PAGES, dtype=np.uint64) * np.uint64(4096)
ZERO = np.arange(PAGES) % 4 != 0


def test_deaths_with_answers_in_between_do_not_add_up(ram: Ram) -> None:
    with Coordinator(channels=1) as c:
        block = c.attach(ram.source)
        for _ in range(7):
            os.kill(c.worker_pids[0], signal.SIGKILL)
            for _ in range(3):
                assert c.check(block, OFFSETS[:64]).decided.all()


@pytest.mark.parametrize("work", ["check", "check, no worker knows it", "scan"])
def test_work_that_was_begun_before_a_detach(
    ram: Ram, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """The block is detached just after the call looked whether it is; a check that has reached a
    worker by then is answered."""
    with Coordinator(channels=1) as c:
        block, other = c.attach(ram.source), c.attach(ram.source)
        begin_use = Block.begin_use

        def begin_use_and_detach(self: Block) -> None:
            begin_use(self)
            if self is block:
                c.detach(self)
                assert self.source.fd >= 0, "closed under its user"

        monkeypatch.setattr(Block, "begin_use", begin_use_and_detach)
        if work == "check":
            assert np.array_equal(c.check(block, OFFSETS).zero, ZERO)
        else:
            c._pool.channels[0]._attached.pop(block.id)
            with pytest.raises(UsageError, match="detached"):
                c.scan(block, deadline=3) if work == "scan" else c.check(block, OFFSETS, deadline=3)
        assert block.source.fd == -1
        assert c.workers_replaced == 0
        assert c.check(other, OFFSETS).decided.all()


def test_blocks_come_and_go_beside_checks(ram: Ram) -> None:
    with Coordinator(channels=2) as c:
        stays = c.attach(ram.source)
        gone = threading.Event()
        wrong: list[str] = []

        def check_on() -> None:
            while not gone.is_set():
                answer = c.check(stays, OFFSETS)
                if not (answer.decided.all() and np.array_equal(answer.zero, ZERO)):
                    wrong.append("answer")

        thread = threading.Thread(target=check_on)
        thread.start()
        try:
            for _ in range(60):
                block = c.attach(ram.source)
                assert np.array_equal(c.check(block, OFFSETS[:8]).zero, ZERO[:8])
                c.detach(block)
        finally:
            gone.set()
            thread.join()
        assert wrong == []
        assert c.workers_replaced == 0


def test_an_id_that_is_used_again_means_the_new_block(
    ram: Ram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was busy at the detach still knows the old block by the same id."""
    with memfd() as inverse, Coordinator(channels=1) as c:
        inverse.fill([ZEROS, Page(7), Page(0), Page(4095)] * (PAGES // 4), 4096)
        old = c.attach(ram.source)
        assert np.array_equal(c.check(old, OFFSETS).zero, ZERO)
        assert c._pool is not None
        monkeypatch.setattr(c._pool, "visit_idle", lambda *_: None)  # every one is busy
        c.detach(old)
        new = c.attach(inverse.source)
        assert new.id == old.id
        assert np.array_equal(c.check(new, OFFSETS).zero, ~ZERO)


def test_blocks_past_the_end_hide_no_holes(ram: Ram) -> None:
    """fallocate(KEEP_SIZE) makes a sparse file look allocated throughout."""
    end = ctypes.c_long(PAGES * 4096)
    assert ctypes.CDLL(None).fallocate(ram.fd, KEEP_SIZE, end, end) == 0
    before = ram.blocks
    with Coordinator(channels=1) as c:
        answer = c.check(c.attach(ram.source, access="map"), OFFSETS)
    assert np.array_equal(answer.zero, ZERO)
    assert ram.blocks == before


def test_blocks_past_the_end_hide_no_unchanged_pages(ram: Ram) -> None:
    end = ctypes.c_long(PAGES * 4096)
    assert ctypes.CDLL(None).fallocate(ram.fd, KEEP_SIZE, end, end) == 0
    with Coordinator(channels=1) as c:
        report = c.scan(c.attach(ram.source), kind="diff")
    unchanged = bits(report.blocks[0].unchanged, PAGES)
    assert np.array_equal(unchanged, np.arange(PAGES) % 4 >= 2)
