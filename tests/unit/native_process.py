"""Calls of what looks at private memory, rightly and wrongly; the process is this one."""

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

from pagecheck.native import ProcessWalk, _native
from tests.unit.native_entries import (
    NOWHERE,
    PAGE,
    PAGES,
    World,
    bitmaps,
    case,
    refuses,
    refuses_all_wrong,
)

SIZE = PAGES * PAGE


def pieces(*quadruples: int) -> bytes:
    """As the extension takes them."""
    return struct.pack(f"{len(quadruples)}Q", *quadruples)


@contextlib.contextmanager
def private() -> Iterator[tuple[int, int]]:
    """A descriptor of our page tables, and the address of pages of which 2 and 4 were written."""
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (2, 4):
        memory[page * PAGE] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        yield fd, address
    finally:
        os.close(fd)


ALL = (0, SIZE, _native.ABSENT_ZERO, 0)
NOT_THE_BLOCK = (
    (),
    (0, SIZE - PAGE, 0, 0),
    (PAGE, SIZE, 0, 0),
    (0, SIZE + PAGE, 0, 0),
    (0, SIZE, _native.UNREADABLE + 1, 0),
    (0, SIZE, _native.ABSENT_ZERO, 1),
    (0, PAGE, 0, 0, 0, SIZE, 0, 0),
    (0, PAGE + 1, 0, 0, PAGE + 1, SIZE, 0, 0),
)


@case("ProcessWalk.__init__")
def _(_world: World) -> None:
    with private() as (fd, address):
        good = (fd, address, PAGE, PAGES, pieces(*ALL))
        walk = ProcessWalk(*good, *bitmaps())  # released by its end alone
        refuses(walk.__init__, *good, *bitmaps())  # type: ignore[misc]
        refuses_all_wrong(ProcessWalk, *good, *bitmaps())
        for wrong in NOT_THE_BLOCK:
            refuses(ProcessWalk, *good[:4], pieces(*wrong), *bitmaps())
        refuses(ProcessWalk, *good[:4], bytes(31), *bitmaps())
        for base, page, pages in ((address + 1, PAGE, PAGES), (0, 0, 1), (0, 1 << 62, 2)):
            refuses(ProcessWalk, fd, base, page, pages, pieces(*ALL), *bitmaps())
        refuses(ProcessWalk, *good, bytearray(8), bytearray(PAGES))
        refuses(ProcessWalk, *good, bytearray(PAGES), bytes(PAGES))
    refuses(ProcessWalk.__new__(ProcessWalk).next, 1)


@case("ProcessWalk.next")
def _(_world: World) -> None:
    with private() as (fd, address):
        walk = ProcessWalk(fd, address, PAGE, PAGES, pieces(*ALL), *bitmaps())
        refuses_all_wrong(walk.next, 1)
        assert walk.next(64) == (2, 3, 2)
        assert walk.next(64) is None
    nowhere = ProcessWalk(NOWHERE, address, PAGE, PAGES, pieces(*ALL), *bitmaps())
    assert nowhere.next(64) == (0, PAGES, PAGES)  # what cannot be looked up has data


@case("Worker.attach_process")
def _(world: World) -> None:
    with private() as (fd, address):
        good = (1, fd, fd, -1, os.getpid(), address, SIZE, PAGE, False, pieces(*ALL))
        world.worker.attach_process(*good)
        refuses(world.worker.attach_process, *good)
        world.worker.detach(1)
        refuses_all_wrong(world.worker.attach_process, *good)
        for wrong in NOT_THE_BLOCK:
            refuses(world.worker.attach_process, *good[:-1], pieces(*wrong))
        refuses(world.worker.attach_process, *good[:-1], bytes(31))
        for base, size, page in ((1, SIZE, PAGE), (address, SIZE, 1000), (1 << 63, SIZE, PAGE)):
            refuses(world.worker.attach_process, *good[:5], base, size, page, *good[8:])
        for which in (1, 2, 3):  # descriptors
            refuses(world.worker.attach_process, *good[:which], NOWHERE, *good[which + 1 :])
        refuses(world.worker.attach_process, *good[:4], 0, *good[5:])
        of_a_file = pieces(0, SIZE, _native.ABSENT_FILE, 0)
        refuses(world.worker.attach_process, *good[:-1], of_a_file)
        world.worker.attach_process(*good[:3], world.ram, *good[4:-1], of_a_file)
    world.worker.detach(1)


@case("swapped_pages")
def _(_world: World) -> None:
    with private() as (fd, address):
        good = (fd, address, PAGE, PAGES)
        assert _native.swapped_pages(*good, *bitmaps()) == 0
        refuses_all_wrong(_native.swapped_pages, *good, *bitmaps())
        for base, page, pages in ((address + 1, PAGE, PAGES), (0, 0, 1), (0, 1 << 62, 2)):
            refuses(_native.swapped_pages, fd, base, page, pages, *bitmaps())
        refuses(_native.swapped_pages, *good, bytearray(8), bytearray(PAGES))
        refuses(_native.swapped_pages, *good, bytearray(PAGES), bytearray(8))
    assert _native.swapped_pages(NOWHERE, *good[1:], *bitmaps()) == 0
