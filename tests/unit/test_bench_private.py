"""`tools.bench private`: its process with private memory, the bare copy, and what runs beside."""

from __future__ import annotations

import os
import threading

import pytest

from pagecheck import Coordinator
from tools.bench.others_ram import BareCopy, PrivateRam, Scheduled, Took
from tools.bench.private import SIZE as SIZE_OF_SCANS
from tools.bench.private import two_rows
from tools.bench.private_guest import if_there_is_a_guest
from tools.bench.private_loop import repeated, scan_apart
from tools.bench.rows import Row, Spread
from tools.guest import MissingPiece

SIZE = 16 << 20
PAGES = SIZE // 4096


@pytest.mark.parametrize(
    ("fill", "zero", "hole"),
    [
        ("absent", PAGES, PAGES),
        ("zero", PAGES, 0),
        ("full", 0, 0),
        ("second", PAGES // 2, PAGES // 2),
    ],
)
def test_the_process_has_the_memory_that_it_was_asked_for(fill: str, zero: int, hole: int) -> None:
    with PrivateRam(SIZE, fill) as ram, Coordinator(1) as coordinator:
        total = coordinator.scan(coordinator.attach(ram.open())).total
    assert (total.pages, total.zero, total.hole, total.undecided) == (PAGES, zero, hole, 0)


def test_a_random_half_is_about_a_half() -> None:
    with PrivateRam(SIZE, "half") as ram, Coordinator(1) as coordinator:
        total = coordinator.scan(coordinator.attach(ram.open())).total
    assert 0.4 < total.zero / PAGES < 0.6


def test_the_bare_copy_refuses_what_cannot_be_copied() -> None:
    with PrivateRam(SIZE, "full") as ram, BareCopy() as peer:
        took = peer.take(ram, 1 << 19, 2)
        assert took.wall > 0
        assert took.cpu > 0
        ram.address = 0
        with pytest.raises(ValueError, match="ended"):
            peer.take(ram, 1 << 19, 1)


def test_its_loop_passes_over_a_part_again_and_again() -> None:
    with PrivateRam(SIZE, "absent") as ram, Coordinator(1) as coordinator:
        passed = ram.loop(1 << 20, 0.05)
        total = coordinator.scan(coordinator.attach(ram.open())).total
        assert Scheduled.of(ram.pid).ran > 0
    assert passed >= 1 << 20
    assert total.normal == 256


def test_a_call_is_repeated_until_the_block_ends() -> None:
    third = threading.Event()
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            third.set()

    with repeated(call) as done:
        assert third.wait(10)
    assert done() == calls >= 3


def test_the_error_of_a_repeated_call_is_not_lost() -> None:
    def call() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), repeated(call):
        pass


def test_who_is_scanned_has_a_cpu_that_the_scan_has_not() -> None:
    before = os.sched_getaffinity(0)
    with scan_apart() as (cpu, words):
        left = os.sched_getaffinity(0)
        assert left == (before - {cpu} or before)
        assert words == ("a CPU each" if len(before) > 1 else "on the only CPU")
    assert os.sched_getaffinity(0) == before


def test_without_a_guest_a_row_says_what_is_missing() -> None:
    def measure() -> list[Row]:
        raise MissingPiece("no qemu")

    (row,) = if_there_is_a_guest("pause", measure)
    assert (row.what, row.note, row.ratio) == ("pause", "no qemu", None)


def test_a_row_by_the_clock_and_one_by_the_cpu_time() -> None:
    empty = Row("scan", "zero", "copy", None, 0.9, None, None, None)
    took = [Took(4.0, 2.0), Took(2.0, 1.0)]
    peer = [Took(2.0, 2.0), Took(4.0, 3.0)]
    wall, cpu = two_rows(empty, took, peer, Took(1.0, 2.0))
    pages = SIZE_OF_SCANS // 4096
    assert (wall.what, wall.ratio) == ("scan", Spread(0.5, 1.25, 2.0))
    assert (cpu.what, cpu.ratio) == ("scan, CPU time", Spread(1.0, 2.0, 3.0))
    assert (wall.ours, wall.theirs, wall.limit) == (3e9 / pages, 3e9 / pages, 4e9 / pages)
    assert (cpu.ours, cpu.theirs, cpu.limit) == (1.5e9 / pages, 2.5e9 / pages, 4.5e9 / pages)
