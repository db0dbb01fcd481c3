"""A target's memory as a RAM block, and what a coordinator says of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from pagecheck import Coordinator, Report
from pagecheck.coordinator import Block
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.bitmaps import bits
from tests.support.rams import PAGE
from tests.support.target import Area, assert_right, joined, said

PAGE_SIZES: Final = (PAGE, 2 * PAGE, 64 << 10, 2 << 20)


def opened(area: Area, **options: Any) -> ProcessRam:
    """Its memory as a source."""
    with ProcessMemory(area.target.pid) as process:
        text = f"pid:{area.target.pid}"
        return open_private(process, text, "ram", area.base, area.pages * PAGE, **options)


@contextlib.contextmanager
def attached(
    coordinator: Coordinator, source: ProcessRam, page_size: int = PAGE
) -> Iterator[Block]:
    block = coordinator.attach(source, page_size=page_size)
    try:
        yield block
    finally:
        coordinator.detach(block)


def of_report(report: Report) -> np.ndarray:
    """ZERO, NORMAL or UNDECIDED of each page of a report's one block; its counts fit."""
    (block,) = report.blocks
    pages = block.block.pages
    zero, normal = bits(block.zero, pages), bits(block.normal, pages)
    counts = block.counts
    assert (counts.zero, counts.normal) == (zero.sum(), normal.sum())
    assert counts.zero + counts.normal + counts.undecided == counts.pages == pages
    assert 0 <= counts.swapped <= counts.undecided
    assert counts.hole <= counts.zero
    return said(zero, normal)


def of_check(coordinator: Coordinator, block: Block, pages: Sequence[int]) -> np.ndarray:
    """The same of some pages, in the order they are asked for."""
    offsets = np.array(pages, np.uint64) * np.uint64(block.ram.page_size)
    answer = coordinator.check(block, offsets)
    return said(answer.zero, answer.decided & ~answer.zero)


def look(coordinator: Coordinator, area: Area, may: np.ndarray, **options: Any) -> None:
    """Scans it with pages of each size, and checks pages here and there; all must be right."""
    rng = np.random.default_rng(5)
    for page_size in PAGE_SIZES:
        right = joined(may, page_size // PAGE)
        with attached(coordinator, opened(area, **options), page_size) as block:
            assert_right(of_report(coordinator.scan(block)), right)
            some = rng.integers(0, len(right), min(300, 2 * len(right))).tolist()
            assert_right(of_check(coordinator, block, some), right[some])


def at_walk(source: ProcessRam, act: Callable[[], object]) -> None:
    """Has `act` called once in the next scan, when the page tables were walked and no page was
    read."""
    walk = source.walk

    class Acting:
        def __init__(self, *given: Any) -> None:
            self._walk = walk(*given)
            self._found: list[Any] | None = None

        def next(self, most: int) -> Any:
            if self._found is None:
                self._found = list(iter(lambda: self._walk.next(most), None))
                act()
            return self._found.pop(0) if self._found else None

    source.walk = Acting  # type: ignore[method-assign, assignment]


def at_verify(source: ProcessRam, act: Callable[[], object]) -> None:
    """Has `act` called once in the next scan, when every page was read."""
    verify, todo = source.verify, [act]

    def verified() -> str | None:
        if todo:
            todo.pop()()
        return verify()

    source.verify = verified  # type: ignore[method-assign]
