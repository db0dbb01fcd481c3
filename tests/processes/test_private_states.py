"""Private memory of another process in every state that a kernel knows.

Each page is right or, where it must be, undecided; and the look changes nothing of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.errors import SourceError
from tests.support import target as t
from tests.support.footprint import unchanged
from tests.support.looking import attached, look, of_report, opened
from tests.support.rams import PAGE
from tests.support.states import PAGES, STATES, State, anonymous, memory
from tests.support.target import Area, Target, assert_right, joined

# What is not private memory at all, or too much of a patchwork.
REFUSED: Final = {
    *("shared_anonymous", "shared_memfd", "userfault_minor"),
    "more_mappings_than_are_kept",
}


@pytest.fixture(scope="module")
def coordinators() -> Iterator[tuple[Coordinator, ...]]:
    with Coordinator(1) as one, Coordinator(3) as three:
        yield one, three


@pytest.fixture
def one(coordinators: tuple[Coordinator, ...]) -> Coordinator:
    return coordinators[0]


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


@pytest.mark.parametrize("name", [name for name in STATES if name not in REFUSED])
def test_each_page(name: str, coordinators: tuple[Coordinator, ...]) -> None:
    with contextlib.ExitStack() as stack, Target() as target:
        area = STATES[name](target, stack)
        before = area.present(), area.swapped()
        for coordinator in coordinators:
            unchanged(target.pid, lambda: look(coordinator, area, area.may))  # noqa: B023
        assert np.array_equal(area.present(), before[0])
        assert np.array_equal(area.swapped(), before[1])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(name: str, target: Target) -> None:
    with contextlib.ExitStack() as stack:
        area = STATES[name](target, stack)
        with pytest.raises(SourceError, match=r"^pid:\d+: [^\n]+$"):
            opened(area)


def test_swapped_pages_that_are_to_be_read(target: Target, one: Coordinator) -> None:
    with t.swap_file():
        area = anonymous(target)
        area.mix(pages=range(1000))
        memory.swap_out(area, 0, 1000)
        swapped = area.swapped()
        with attached(one, opened(area)) as block:
            report = one.scan(block)
            assert report.blocks[0].counts.swapped == swapped.sum()
            assert any("--swapped read" in note for note in report.notes)
        assert np.array_equal(area.swapped(), swapped)
        look(one, area, area.may, read_swapped=True)


def test_guard_pages_are_not_called_swapped_when_those_are_read(
    target: Target, one: Coordinator
) -> None:
    with contextlib.ExitStack() as stack:
        area = STATES["guarded"](target, stack)
        with attached(one, opened(area, read_swapped=True)) as block:
            report = one.scan(block)
            assert_right(of_report(report), area.may)
            assert report.total.swapped == 0
            assert report.notes[0] == "10 pages could not be read and are undecided"


def test_part_of_a_mapping(target: Target, one: Coordinator) -> None:
    """A block begins and ends where its mapping goes on, and not at a multiple of a huge page."""
    area = anonymous(target)
    area.advise(0, area.pages, t.HUGEPAGE)
    area.data(0, 700)
    area.discard(100, 300)
    part = Area(target, area.at(7), 640)
    part.may = area.may[7:647]
    for page_size in (PAGE, 8 * PAGE):
        with attached(one, opened(part), page_size) as block:
            assert_right(of_report(one.scan(block)), joined(part.may, page_size // PAGE))


@pytest.mark.parametrize("make", [STATES["mixed"], STATES["huge_pages"]])
def test_as_many_batches_as_pages(target: Target, make: State) -> None:
    with contextlib.ExitStack() as stack, Coordinator(2, batch_pages=1) as small:
        area = make(target, stack)
        with attached(small, opened(area)) as block:
            assert_right(of_report(small.scan(block)), area.may)


def test_a_file_is_not_allocated(target: Target, one: Coordinator) -> None:
    """Holes of a file that is mapped privately stay holes."""
    fd = target.memfd(PAGES * PAGE)
    area = Area(target, target.map(PAGES, flags=t.PRIVATE, fd=fd), PAGES)
    area.data(3)
    path = f"/proc/{target.pid}/fd/{fd}"
    before = os.stat(path).st_blocks
    look(one, area, area.may)
    assert os.stat(path).st_blocks == before
