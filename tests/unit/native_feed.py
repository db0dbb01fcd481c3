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


def words(pages: int = PAGES) -> memoryview:
    return memoryview(offsets(pages)).cast("Q")


def target(world: World, **change: int) -> object:
    good = {"block": 0, "page": PAGE, "bytes": PAGES * PAGE, "batch": SLOT_PAGES, "most": PAGES}
    last = {"fd": world.ram, "end": PAGES * PAGE, "slice": 1_000_000_000}
    return _native.check_target(*(good | last | change).values())


def let_answer(world: World) -> None:
    """Takes the answers to a job that was ended."""
    world.feed.end()
    world.worker.serve(0)
    world.feed.pump(False, 0)


@case("Feed.submit_check")
def _(world: World) -> None:
    submit, good = world.feed.submit_check, target(world)
    assert submit(good, words()) == PAGES
    refuses(submit, good, words())  # the job's batches are out
    refuses(world.feed.pump, False, FAR)  # and its answers have no room
    let_answer(world)
    for wrong in ((WRONG, words()), (good,), (good, words(), 0), (target(world, batch=0), words())):
        refuses(submit, *wrong)
    for wrong in (WRONG, offsets(), words(0), words()[::2], memoryview(b"x" * 8)):
        assert submit(good, wrong) == 0
    for change in ({"most": 1}, {"bytes": PAGE}, {"page": 2 * PAGE}):
        assert submit(target(world, **change), words(2)) == 0
    child = os.fork()
    if child == 0:
        os._exit(submit(good, words()))
    assert os.waitpid(child, 0)[1] == 0


@case("Feed.finish_check")
def _(world: World) -> None:
    def submit() -> None:
        assert world.feed.submit_check(good, words()) == PAGES

    def places(room: int = 8 * PAGES) -> tuple[Any, ...]:
        return (*marks(), bytearray(room))

    finish, good = world.feed.finish_check, target(world)
    refuses(finish, good, *places(), 1)
    with world.serving():
        submit()
        refuses_all_wrong(finish, good, *places(), 1)
        refuses(finish, good, *places(room=8), 1)
        refuses(finish, good, bytearray(8), bytearray(8), bytearray(8 * PAGES), 1)
        assert finish(good, *places(), 1e300) == 0
        refuses(finish, good, *places(), 1)
        submit()
        copy = places()
        assert finish(target(world, end=PAGES * PAGE + 1), *copy, 60) < 0
        assert copy[2] == offsets()
        assert world.feed.end() == (PAGES, 0)
        submit()
        assert finish(target(world, fd=-1), *places(), 60) < 0  # the size of nothing is not known
        assert world.feed.end() == (PAGES, 0)
    for seconds, change in ((-1, {}), (0.001, {}), (60, {"slice": 1000})):
        submit()
        assert finish(target(world, **change), *places(), seconds) < 0
        refuses(finish, good, *places(), 1)
        let_answer(world)


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
