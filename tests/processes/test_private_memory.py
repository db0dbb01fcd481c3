"""Scans and checks of private memory, that of this process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pagecheck import Coordinator
from pagecheck.errors import UsageError
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.bitmaps import bits
from tests.support.memory import Area
from tests.support.processes import stop

PAGES = 3000
PAGE = 4096


class Filled:
    """An area with holes, written zeros and data, and what is in it."""

    def __init__(self, area: Area) -> None:
        self.area = area
        rng = np.random.default_rng(5)
        self.kinds: NDArray[np.int_] = rng.integers(0, 4, PAGES)
        area.advise(0, PAGES, mmap.MADV_NOHUGEPAGE)
        for page in np.flatnonzero(self.kinds).tolist():
            data = bytearray(PAGE)
            if self.kinds[page] > 1:
                data[0 if self.kinds[page] == 2 else PAGE - 1] = 1
            area.write(page, bytes(data))
        self.zero = self.kinds < 2
        self.hole = self.kinds == 0

    def open(self) -> ProcessRam:
        with ProcessMemory(os.getpid()) as process:
            return open_private(process, "pid:1", "ram", self.area.base, self.area.size)


@pytest.fixture
def filled() -> Iterator[Filled]:
    with Area(PAGES) as area:
        yield Filled(area)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("holes", ["trust", "read"])
def test_scan(filled: Filled, channels: int, holes: str) -> None:
    with Coordinator(channels) as c:
        block = c.attach(filled.open(), holes=holes)  # type: ignore[arg-type]
        report = c.scan(block)
    assert (report.answer, report.total.undecided) == ("live", 0)
    assert report.notes == ()
    assert (bits(report.blocks[0].zero, PAGES) == filled.zero).all()
    assert (bits(report.blocks[0].normal, PAGES) == ~filled.zero).all()
    assert report.total.hole == (filled.hole.sum() if holes == "trust" else 0)


def test_check(filled: Filled) -> None:
    order = np.random.default_rng(1).permutation(PAGES)
    offsets = order.astype(np.uint64) * np.uint64(PAGE)
    with Coordinator(2) as c:
        block = c.attach(filled.open())
        for count in (1, 128, 500, PAGES):
            answer = c.check(block, offsets[:count])
            assert answer.decided.all()
            assert (answer.zero == filled.zero[order[:count]]).all()


def test_a_mapping_that_is_exchanged_between_two_answers(filled: Filled) -> None:
    offsets = np.arange(PAGES, dtype=np.uint64) * np.uint64(PAGE)
    with Coordinator(1) as c:
        block = c.attach(filled.open())
        assert c.check(block, offsets[:128]).decided.all()
        other = os.memfd_create("other")
        filled.area.map_file(5, 1, other, 0)
        os.close(other)
        answer = c.check(block, offsets[:128])
        assert not answer.decided.any()
        assert not answer.zero.any()
        assert "unmapped or exchanged" in answer.notes[0]
        report = c.scan(block)
        assert report.total.undecided == PAGES
        assert not any(report.blocks[0].zero)
        assert "every page is undecided" in report.notes[0]


def test_a_worker_that_is_replaced_knows_the_block(filled: Filled) -> None:
    with Coordinator(1, stall=0.3) as c:
        block = c.attach(filled.open())
        stop(c.worker_pids[0])
        report = c.scan(block)
        assert c.workers_replaced == 1
    assert (bits(report.blocks[0].zero, PAGES) == filled.zero).all()


def test_the_cpu_decides_beside_a_device(filled: Filled) -> None:
    with Coordinator(1, engine="dsa", wq=["model:"]) as c:
        report = c.scan(c.attach(filled.open()))
    assert (bits(report.blocks[0].zero, PAGES) == filled.zero).all()
    assert report.statistics.descriptors == 0
    assert any("decided by the CPU, not by the device" in note for note in report.notes)


def test_what_does_not_go_with_a_process(filled: Filled) -> None:
    with Coordinator(1) as c:
        with pytest.raises(UsageError, match="nobody else can map; use access='read'"):
            c.attach(filled.open(), access="map")
        with pytest.raises(UsageError, match="attached whole"):
            c.attach(filled.open(), offset=PAGE)
        with pytest.raises(UsageError, match="not a diff snapshot"):
            c.scan(c.attach(filled.open()), kind="diff")


def test_engine_none_looks_at_nothing(filled: Filled) -> None:
    with Coordinator(1, engine="none") as c:
        report = c.scan(c.attach(filled.open()))
    assert report.total.normal == PAGES
