"""Anonymous memory in all its states."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support import target as t
from tests.support.kernel_settings import set_to
from tests.support.rams import PAGE
from tests.support.states.registry import PAGES, PER_HUGE, anonymous, state
from tests.support.target import Area, Target
from tests.support.waiting import wait_for


@state
def never_touched(target: Target, _stack: contextlib.ExitStack) -> Area:
    return anonymous(target)


@state
def mixed(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(700))
    area.mix(seed=2, pages=range(1100, 1300))
    return area


@state
def without_huge_pages(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.advise(0, PAGES, t.NOHUGEPAGE)
    area.mix(pages=range(0, PAGES, 3))
    return area


@state
def huge_pages(target: Target, _stack: contextlib.ExitStack) -> Area:
    """One with data, one that was only read (the huge zero page), one of zeros."""
    area = anonymous(target)
    area.advise(0, PAGES, t.HUGEPAGE)
    area.byte(7, PAGE - 1)
    area.data(300, 2)
    area.touch(PER_HUGE, 1)
    area.zeros(2 * PER_HUGE)
    return area


@state
def huge_pages_that_were_split(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.advise(0, PAGES, t.HUGEPAGE)
    area.data(0, PAGES)
    area.discard(100, 13)
    area.discard(PER_HUGE + 3, 1)
    area.protect(900, 4, t.READ)
    area.zeros(1200, 5)
    return area


@state
def folios_of_64_kib(target: Target, stack: contextlib.ExitStack) -> Area:
    folios = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled")
    if not folios.exists():
        pytest.skip("no folios of 64 KiB (Linux 6.8)")
    stack.enter_context(set_to(folios, "always"))
    area = anonymous(target)
    for page in range(0, PAGES, 40):
        area.byte(page, PAGE - 1)
    area.discard(80, 3)
    return area


@state
def collapsed(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.advise(0, PAGES, t.NOHUGEPAGE)
    area.mix(pages=range(0, PER_HUGE, 2))
    area.advise(0, PAGES, t.HUGEPAGE)
    with contextlib.suppress(OSError):  # where it is new, or no huge page is free
        area.advise(0, PER_HUGE, t.COLLAPSE)
    return area


@state
def swapped(target: Target, stack: contextlib.ExitStack) -> Area:
    """Zeros and data, some of them swapped out; what is swapped is undecided."""
    stack.enter_context(t.swap_file())
    area = anonymous(target)
    area.mix(pages=range(1000))
    swap_out(area, 0, 600)
    area.may[area.swapped()] = t.UNDECIDED
    return area


def swap_out(area: Area, first: int, count: int) -> None:
    """Returns once some of it is swapped."""

    def some() -> bool:
        area.advise(first, count, t.PAGEOUT)
        return bool(area.swapped()[first : first + count].any())

    wait_for(some, "pages are swapped out", 10)


@state
def not_readable_in_the_middle(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(0, PAGES, 2))
    area.protect(500, 9, 0)
    area.protect(1200, 1, 0)
    return area


@state
def unmapped_in_the_middle(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(0, PAGES, 2))
    area.unmap(500, 9)
    area.unmap(PAGES - 1, 1)
    return area


@state
def read_only(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(800))
    area.protect(0, 1000, t.READ)
    return area


@state
def write_only_and_executable(target: Target, _stack: contextlib.ExitStack) -> Area:
    """What the process may only write is not believed; code is RAM as any other."""
    area = anonymous(target)
    area.mix(pages=range(800))
    area.target.call("mprotect", area.at(100), 50 * PAGE, t.WRITE)
    area.may[100:150] |= t.UNDECIDED
    area.target.call("mprotect", area.at(300), 50 * PAGE, 7)
    return area


@state
def locked(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(200))
    target.call("mlock", area.at(100), 900 * PAGE)
    return area


@state
def discarded(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.data(0, 1000)
    area.discard(10, 500)
    area.discard(900, 1)
    return area


@state
def free_to_take(target: Target, _stack: contextlib.ExitStack) -> Area:
    """MADV_FREE: a page keeps its bytes until the kernel takes it."""
    area = anonymous(target)
    area.data(0, 1000)
    area.advise(10, 500, t.FREE)
    area.may[10:510] |= t.ZERO
    return area


@state
def guarded(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(800))
    try:
        area.advise(100, 9, t.GUARD_INSTALL)
        area.advise(1000, 1, t.GUARD_INSTALL)
    except OSError as error:
        pytest.skip(f"no MADV_GUARD_INSTALL (Linux 6.13): {error.strerror}")
    area.may[100:109] = t.UNDECIDED
    area.may[1000] = t.UNDECIDED
    return area


@state
def merged_by_ksm(target: Target, stack: contextlib.ExitStack) -> Area:
    """Equal pages became one, and pages of zeros the kernel's zero page."""
    ksm = Path("/sys/kernel/mm/ksm")
    if not ksm.exists():
        pytest.skip("no KSM in this kernel")
    for name, value in (("use_zero_pages", 1), ("pages_to_scan", 4096), ("sleep_millisecs", 1)):
        stack.enter_context(set_to(ksm / name, value))
    area = anonymous(target)
    area.advise(0, PAGES, t.NOHUGEPAGE)
    area.data(0, 256)
    area.zeros(256, 256)
    area.byte(600, 5)
    area.advise(0, PAGES, t.MERGEABLE)
    with set_to(ksm / "run", 1):
        own = Path(f"/proc/{target.pid}/ksm_merging_pages")
        wait_for(lambda: int(own.read_text()) > 100, "KSM merged pages", 30)
    return area


@state
def moved(target: Target, _stack: contextlib.ExitStack) -> Area:
    """Some of it was mapped elsewhere and came by mremap; where it was it is untouched again."""
    area = anonymous(target)
    area.mix(pages=range(400))
    to, count = 800, 300
    flags = t.MAYMOVE | t.MREMAP_FIXED
    target.call("mremap", area.at(0), count * PAGE, count * PAGE, flags, area.at(to))
    area.may[to : to + count] = area.may[:count]
    target.map(count, at=area.at(0))
    area.may[:count] = t.ZERO
    return area


@state
def several_mappings(target: Target, _stack: contextlib.ExitStack) -> Area:
    """Lines of maps that the kernel keeps apart, and others that it merged."""
    area = anonymous(target)
    area.mix(pages=range(0, PAGES, 2))
    area.advise(100, 200, t.DONTDUMP)
    area.advise(400, 1, 10)  # MADV_DONTFORK
    target.map(200, at=area.at(600))
    area.may[600:800] = t.ZERO
    area.data(650)
    return area


@state
def more_mappings_than_are_kept(target: Target, _stack: contextlib.ExitStack) -> Area:
    """So many pieces that it may be refused as a whole."""
    area = anonymous(target)
    area.mix(pages=range(0, PAGES, 5))
    for page in range(1, PAGES, 4):
        area.protect(page, 1, 0)
    area.may |= t.UNDECIDED
    return area


@state
def droppable(target: Target, _stack: contextlib.ExitStack) -> Area:
    try:
        base = target.map(PAGES, flags=0x08 | t.ANONYMOUS)  # MAP_DROPPABLE
    except OSError:
        pytest.skip("no MAP_DROPPABLE (Linux 6.11)")
    area = Area(target, base, PAGES)
    area.mix(pages=range(300))
    area.may |= t.UNDECIDED
    return area
