"""Calls of `Feed`, rightly and wrongly."""

import os
from typing import Any

from pagecheck.native import Feed, _native
from tests.unit.native_entries import (
    FAR,
    NOWHERE,
    PAGE,
    PAGES,
    SLOT_PAGES,
    SLOTS,
    WRONG,
    World,
    bitmaps,
    case,
    marks,
    memfd,
    offsets,
    refuses,
    refuses_all_wrong,
    ring,
)


@case("Feed.__init__")
def _(_world: World) -> None:
    with ring() as (fd, control), memfd(64) as short:
        Feed(fd)  # closed by its end alone
        feed = Feed(fd, control, 1000)
        refuses(feed.__init__, fd, control)  # type: ignore[misc]
        refuses_all_wrong(Feed, fd, control, 1000, optional=2)
        for wrong in ((NOWHERE, control), (fd, NOWHERE), (short, control), (fd, short)):
            refuses(Feed, *wrong)
        os.pwrite(fd, bytes(8), 0)
        refuses(Feed, fd, control)
    refuses(Feed.__new__(Feed).counts)


@case("Feed.begin_range")
def _(world: World) -> None:
    good = (0, SLOT_PAGES, PAGES, PAGE)
    world.feed.begin_range(*good, *bitmaps(3))
    refuses_all_wrong(world.feed.begin_range, *good, *bitmaps(3))
    refuses(world.feed.begin_range, 0, SLOT_PAGES + 1, PAGES, PAGE, *bitmaps(3))
    refuses(world.feed.begin_range, 0, 0, PAGES, PAGE, *bitmaps(3))
    refuses(world.feed.begin_range, 0, SLOT_PAGES, PAGES + 1, PAGE, *bitmaps(3))
    refuses(world.feed.begin_range, *good, bytearray(PAGES), bytes(PAGES), bytearray(PAGES))
    refuses(world.feed.begin_range, *good, *bitmaps(2), bytearray(8))
    with world.batch_out():
        refuses(world.feed.begin_range, *good, *bitmaps(3))


@case("Feed.begin_offsets")
def _(world: World) -> None:
    good = (0, SLOT_PAGES)
    world.feed.begin_offsets(*good, offsets(), *marks())
    refuses_all_wrong(world.feed.begin_offsets, *good, offsets(), *marks())
    refuses(world.feed.begin_offsets, *good, offsets(PAGES + 8), *marks())
    refuses(world.feed.begin_offsets, *good, bytearray(0), *marks())
    refuses(world.feed.begin_offsets, 0, 0, offsets(), *marks())
    with world.batch_out():
        refuses(world.feed.begin_offsets, *good, offsets(), *marks())


@case("Feed.check")
def _(world: World) -> None:
    def arguments(room: int = 8 * PAGES) -> tuple[Any, ...]:
        where = (0, SLOT_PAGES, world.ram, PAGES * PAGE)
        return (*where, offsets(), *marks(), bytearray(room), FAR)

    with world.serving():
        assert world.feed.check(*arguments()) == (_native.PUMP_DONE, True, 0)
        refuses_all_wrong(world.feed.check, *arguments())
        refuses(world.feed.check, *arguments(room=8))  # seen once every page is decided
        world.feed.end()
    refuses(world.feed.check, 0, 0, *arguments()[2:])
    state, sure, _normal = world.feed.check(*arguments()[:-1], 0)
    assert (state, sure) == (_native.PUMP_TIMEOUT, False)
    world.feed.end()
    world.worker.serve(0)
    world.feed.pump(False, 0)


@case("Feed.more")
def _(world: World) -> None:
    with world.batch_out():
        pass
    world.feed.begin_range(0, SLOT_PAGES, PAGES, PAGE, *bitmaps(3))
    refuses_all_wrong(world.feed.more, 0, 1)
    refuses(world.feed.more, PAGES, 1)
    refuses(world.feed.more, 2**64 - 1, 2**64 - 1)
    world.feed.more(0, 1)
    refuses(world.feed.more, 1, 1)
    world.feed.end()


@case("Feed.pump")
def _(world: World) -> None:
    with world.serving():
        world.feed.begin_range(0, SLOT_PAGES, PAGES, PAGE, *bitmaps(3))
        world.feed.more(0, PAGES)
        assert world.feed.pump(False, FAR) == _native.PUMP_DONE
        assert world.feed.pump(True, FAR) == _native.PUMP_NEED_MORE
        world.feed.end()
    refuses_all_wrong(world.feed.pump, False, 0)
    with world.busy_feed():
        refuses(world.feed.pump, False, 0)


@case("Feed.end")
def _(world: World) -> None:
    with world.batch_out():
        assert world.feed.end() == (0, SLOT_PAGES)
    refuses(world.feed.end, WRONG)


@case("Feed.oldest")
def _(world: World) -> None:
    with world.batch_out():
        assert world.feed.oldest() == (0, SLOT_PAGES, False)
    assert world.feed.oldest() is None
    refuses(world.feed.oldest, WRONG)


@case("Feed.skip_oldest")
def _(_world: World) -> None:
    with ring() as fds:
        feed = Feed(*fds)
        feed.begin_range(0, SLOT_PAGES, PAGES, PAGE, *bitmaps(3))
        feed.more(0, PAGES)
        feed.pump(False, 0)
        with ring() as fresh:
            feed.rebind(*fresh)
        feed.skip_oldest()
        assert feed.end() == (0, PAGES)
        refuses(feed.skip_oldest, WRONG)


@case("Feed.rebind")
def _(_world: World) -> None:
    with ring() as fds, ring() as fresh, ring(2 * SLOTS) as other, memfd(64) as short:
        feed = Feed(*fds)
        feed.rebind(*fresh)
        refuses_all_wrong(feed.rebind, *fresh)
        refuses(feed.rebind, *other)
        refuses(feed.rebind, short, fresh[1])
        refuses(feed.rebind, NOWHERE, fresh[1])
        feed.close()
        refuses(feed.rebind, *fresh)


@case("Feed.raise_attention")
def _(world: World) -> None:
    world.feed.raise_attention()
    assert world.worker.serve(FAR) == _native.SERVE_ATTENTION
    refuses(world.feed.raise_attention, WRONG)
    refuses(Feed.__new__(Feed).raise_attention)


@case("Feed.mark_gone")
def _(_world: World) -> None:
    with ring() as fds:
        feed = Feed(*fds)
        feed.mark_gone()
        refuses(feed.mark_gone, WRONG)
        feed.close()
        refuses(feed.mark_gone)


@case("Feed.progress")
def _(world: World) -> None:
    assert world.feed.progress() >= 0
    refuses(world.feed.progress, WRONG)


@case("Feed.occupied")
def _(world: World) -> None:
    assert world.feed.occupied() == 0
    refuses(world.feed.occupied, WRONG)


@case("Feed.counts")
def _(world: World) -> None:
    with world.batch_out():
        assert world.feed.counts() == (0, 0, 1)
    refuses(world.feed.counts, WRONG)


@case("Feed.close")
def _(world: World) -> None:
    with ring() as fds:
        feed = Feed(*fds)
        feed.begin_offsets(0, SLOT_PAGES, offsets(), *marks())
        feed.close()
        feed.close()
        refuses(feed.counts)
        refuses(feed.close, WRONG)
    with world.busy_feed():
        refuses(world.feed.close)
