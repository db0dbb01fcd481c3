"""A process that dies, or whose memory becomes another one, while it is looked at.

Nothing of another memory is told as its own, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from pagecheck import Coordinator
from tests.support import target as t
from tests.support.looking import at_verify, at_walk, attached, of_check, of_report, opened
from tests.support.processes import children_of, kill
from tests.support.rams import PAGE
from tests.support.states import PAGES, STATES, anonymous, backed, userfault
from tests.support.target import Area, Target, assert_right
from tests.support.waiting import wait_for

LAST_PID: Final = "/proc/sys/kernel/ns_last_pid"
UNDECIDED: Final = np.full(PAGES, t.UNDECIDED, np.uint8)


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    with Coordinator(2) as ready:
        yield ready


@pytest.fixture
def area() -> Iterator[Area]:
    with Target() as target:
        made = anonymous(target)
        made.mix()
        yield made


def dies(area: Area) -> None:
    area.target.process.kill()
    area.target.process.wait(10)


def dies_and_is_not_reaped(area: Area) -> None:
    kill(area.target.pid)


def executes(area: Area) -> None:
    area.target.do("exec")


def executes_and_maps_the_same(area: Area) -> None:
    area.target.do("exec")
    area.target.map(area.pages, at=area.base)
    area.target.do("fill", area.base, area.pages * PAGE, 0)


def unmaps(area: Area) -> None:
    area.target.call("munmap", area.base, area.pages * PAGE)


def unmaps_a_page(area: Area) -> None:
    area.target.call("munmap", area.at(777), PAGE)


def moves(area: Area) -> None:
    to = area.target.map(area.pages)
    size = area.pages * PAGE
    area.target.call("mremap", area.base, size, size, t.MAYMOVE | t.MREMAP_FIXED, to)


def moves_a_part(area: Area) -> None:
    to = area.target.map(10)
    flags = t.MAYMOVE | t.MREMAP_FIXED
    area.target.call("mremap", area.at(50), 10 * PAGE, 10 * PAGE, flags, to)


def exchanges_it_for_shared_memory(area: Area) -> None:
    area.target.map(area.pages, flags=t.SHARED | t.ANONYMOUS, at=area.base)


def exchanges_it_for_a_file(area: Area) -> None:
    fd = area.target.memfd(area.pages * PAGE)
    area.target.map(area.pages, flags=t.PRIVATE, fd=fd, at=area.base)


def forbids_itself_to_read(area: Area) -> None:
    area.target.call("mprotect", area.at(100), 9 * PAGE, 0)


GONE: Final = (
    *(dies, dies_and_is_not_reaped, executes, executes_and_maps_the_same, unmaps, unmaps_a_page),
    *(moves, moves_a_part, exchanges_it_for_shared_memory, exchanges_it_for_a_file),
    forbids_itself_to_read,
)


def when(moment: str, source: object, act: Callable[[], object]) -> None:
    """Has it done before the scan, after the page tables were walked, or after the last read."""
    if moment == "before":
        act()
    else:
        {"walked": at_walk, "read": at_verify}[moment](source, act)  # type: ignore[operator]


@pytest.mark.parametrize("moment", ["before", "walked", "read"])
@pytest.mark.parametrize("act", GONE)
def test_what_is_not_the_same_memory_any_more_is_undecided(
    act: Callable[[Area], None], moment: str, area: Area, coordinator: Coordinator
) -> None:
    source = opened(area)
    with attached(coordinator, source) as block:
        when(moment, source, lambda: act(area))
        report = coordinator.scan(block)
        assert_right(of_report(report), UNDECIDED)
        assert any(str(area.target.pid) in note for note in report.notes), report.notes
        assert all("\n" not in note for note in report.notes)
        answer = coordinator.check(block, np.arange(0, PAGES * PAGE, PAGE, dtype=np.uint64))
        assert not answer.decided.any()
        assert not answer.zero.any()


@pytest.mark.parametrize("act", [executes, executes_and_maps_the_same])
def test_what_another_program_maps_is_not_told(
    act: Callable[[Area], None], area: Area, coordinator: Coordinator
) -> None:
    """It may be one that whoever attached the memory may not look at."""
    source = opened(area)
    with attached(coordinator, source) as block:
        at_verify(source, lambda: act(area))
        notes = coordinator.scan(block).notes
        assert any("executed another program" in note for note in notes), notes


@pytest.mark.parametrize("moment", ["before", "walked", "read"])
def test_pages_that_are_discarded(area: Area, coordinator: Coordinator, moment: str) -> None:
    """A look at a running process tells of each page what it was at some moment of the look."""
    source, may = opened(area), area.may.copy()

    def discard() -> None:
        area.discard(300, 600)

    with attached(coordinator, source) as block:
        when(moment, source, discard)
        assert_right(of_report(coordinator.scan(block)), may | area.may)


@pytest.mark.parametrize("name", ["mixed", "huge_pages", "hugetlb"])
@pytest.mark.parametrize("moment", ["before", "walked"])
def test_a_child_that_writes(name: str, moment: str, coordinator: Coordinator) -> None:
    """Parent and child share pages until one of them writes; what the child writes is its own."""
    with contextlib.ExitStack() as stack, Target() as target:
        if name == "hugetlb":
            backed.reserve_huge(stack, 2)  # for the child's copies
        area = STATES[name](target, stack)
        source, may = opened(area), area.may.copy()
        present = np.flatnonzero(area.present())
        written = present[: len(present) // 2].tolist() if name == "mixed" else []

        def fork() -> None:
            target.do("fork", area.base, PAGE, 7)
            for page in written:
                area.zeros(page)

        with attached(coordinator, source) as block:
            when(moment, source, fork)
            assert_right(of_report(coordinator.scan(block)), may | area.may)
            assert_right(of_report(coordinator.scan(block)), area.may)


def test_a_thread_that_keeps_going(area: Area, coordinator: Coordinator) -> None:
    """It writes and discards 200 pages, over and over; what lies beside them is right."""
    target = area.target
    for advice in (t.DONTNEED, t.FREE, -1):
        target.do("churn", area.at(600), 200 * PAGE, advice, 7)
        area.may[600:800] = t.ZERO | t.NORMAL | t.UNDECIDED
        wait_for(lambda: target.do("rounds") > 0, "the thread runs")
        source = opened(area)
        with attached(coordinator, source) as block:
            for _ in range(30):
                assert_right(of_report(coordinator.scan(block)), area.may)
            assert_right(of_check(coordinator, block, range(PAGES)), area.may)
        target.do("calm")


def test_a_userfaultfd_that_comes_in_the_middle(area: Area, coordinator: Coordinator) -> None:
    source = opened(area)
    absent = ~area.present()
    with attached(coordinator, source) as block:
        userfault.userfault(area, userfault.UFFD_MISSING)
        area.may |= t.UNDECIDED
        area.may[absent] = t.UNDECIDED
        assert_right(of_report(coordinator.scan(block)), area.may)


def test_a_worker_that_is_killed_in_the_middle(area: Area) -> None:
    source = opened(area)
    others = set(children_of(os.getpid()))
    with Coordinator(2) as coordinator, attached(coordinator, source) as block:
        workers = set(children_of(os.getpid())) - others
        at_walk(source, lambda: [kill(pid) for pid in workers])
        assert_right(of_report(coordinator.scan(block)), area.may)
        assert_right(of_check(coordinator, block, range(PAGES)), area.may)


def test_a_deadline(area: Area) -> None:
    with Coordinator(2) as coordinator, attached(coordinator, opened(area)) as block:
        report = coordinator.scan(block, deadline=1e-6)
        assert_right(of_report(report), area.may | t.UNDECIDED)
        assert_right(of_report(coordinator.scan(block)), area.may)


def process_with_number(number: int) -> Target:
    """A new target that has this process id, which is free."""
    for _ in range(200):
        try:
            Path(LAST_PID).write_text(str(number - 1))
        except OSError as error:
            pytest.skip(f"{LAST_PID} cannot be set: {error.strerror}")
        made = Target()
        if made.pid == number:
            return made
        made.end()
    pytest.skip(f"process id {number} is not to be had: others start processes too")


@pytest.mark.parametrize("byte", [0, 7])
def test_a_process_id_that_is_used_again(area: Area, coordinator: Coordinator, byte: int) -> None:
    """Another process has its number by now, and at the same place memory of its own."""
    source = opened(area)
    with attached(coordinator, source) as block:
        area.target.end()
        with process_with_number(area.target.pid) as other:
            other.map(area.pages, at=area.base)
            other.do("fill", area.base, area.pages * PAGE, byte)
            report = coordinator.scan(block)
            assert_right(of_report(report), UNDECIDED)
            assert_right(of_check(coordinator, block, range(PAGES)), UNDECIDED)
