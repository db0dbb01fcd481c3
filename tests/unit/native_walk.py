"""Calls of `Walk`, rightly and wrongly."""

import os

from pagecheck.native import Walk
from tests.unit.native_entries import (
    NOWHERE,
    PAGE,
    PAGES,
    World,
    bitmaps,
    case,
    memfd,
    refuses,
    refuses_all_wrong,
)


@case("Walk.__init__")
def _(world: World) -> None:
    good = (world.ram, 0, PAGE, PAGES)
    walk = Walk(*good, *bitmaps())  # released by its end alone
    refuses(walk.__init__, *good, *bitmaps())  # type: ignore[misc]
    refuses_all_wrong(Walk, *good, *bitmaps())
    for start, page, pages in ((1 << 63, PAGE, 1), (0, 0, 1), (0, 1 << 62, 2), (0, PAGE, 1 << 62)):
        refuses(Walk, world.ram, start, page, pages, *bitmaps())
    refuses(Walk, world.ram, 0, PAGE, PAGES + 1, *bitmaps())
    refuses(Walk, *good, bytearray(PAGES), bytes(PAGES))
    refuses(Walk.__new__(Walk).next, 1)


@case("Walk.next")
def _(_world: World) -> None:
    with memfd(PAGES * PAGE) as fd:
        for page in (2, 4):
            os.pwrite(fd, b"x", page * PAGE)
        walk = Walk(fd, 0, PAGE, PAGES, *bitmaps())
        refuses_all_wrong(walk.next, 1)
        assert walk.next(64) == (2, 3, 2)
        assert walk.next(64) is None
    nowhere = Walk(NOWHERE, 0, PAGE, PAGES, *bitmaps())
    assert nowhere.next(64) == (0, PAGES, PAGES)  # what cannot be looked up has data
