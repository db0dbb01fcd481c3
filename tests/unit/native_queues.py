"""Calls of `Portal` and `Worker`, rightly and wrongly."""

import contextlib
import mmap
from collections.abc import Iterator

from pagecheck.native import Portal, Worker, _native
from tests.unit.native_entries import (
    FAR,
    KERNEL,
    MODEL,
    MODEL_MORE,
    NOWHERE,
    PAGE,
    PAGES,
    WRONG,
    World,
    case,
    memfd,
    pipe,
    refuses,
    refuses_all_wrong,
    ring,
)


@contextlib.contextmanager
def portal() -> Iterator[Portal]:
    """One that is not open."""
    yield Portal(mmap.mmap(-1, 2 * PAGE))


@case("Portal.__init__")
def _(_world: World) -> None:
    refuses(Portal)
    refuses(Portal, WRONG)
    refuses(Portal, bytes(PAGE))
    refuses(Portal, memoryview(mmap.mmap(-1, PAGE))[1:])
    with portal() as made:
        refuses(made.__init__, bytearray(PAGE))  # type: ignore[misc]
    refuses(Portal.__new__(Portal).submit, 0, 1)
    refuses(Portal.__new__(Portal).open_model, *MODEL)


@case("Portal.address")
def _(_world: World) -> None:
    with portal() as made:
        assert made.address % PAGE == 0


@case("Portal.open_queue")
def _(_world: World) -> None:
    with pipe() as (_read, write), portal() as made:
        refuses_all_wrong(made.open_queue, write, "write")
        refuses(made.open_queue, NOWHERE, "write")
        refuses(made.open_queue, write, "enqcmd")  # no device: it cannot be mapped
        refuses(made.open_queue, write, "movdir64b")
        made.open_queue(write, "write")
        refuses(made.open_queue, write, "write")  # closed by its end alone


@case("Portal.open_model")
def _(_world: World) -> None:
    with portal() as made:
        refuses_all_wrong(made.open_model, *MODEL, *MODEL_MORE, optional=3)
        refuses(made.open_model, "none", *MODEL[1:])
        refuses(made.open_model, *MODEL[:-2], "no-such-fault", 0)
        made.open_model(*MODEL, *MODEL_MORE)
        refuses(made.open_model, *MODEL)


@case("Portal.submit")
def _(_world: World) -> None:
    with pipe() as (read, _write), portal() as made, portal() as refused:
        refuses(made.submit, 0, 1)
        made.open_model("write", *MODEL[1:])
        assert made.submit(0, 0) == 0
        refuses_all_wrong(made.submit, 0, 1)
        for wrong in ((1, 1), (2 * PAGE, 1), (0, 2**64 - 1)):
            refuses(made.submit, *wrong)
        refused.open_queue(read, "write")
        refuses(refused.submit, 0, 1)


@case("Portal.close")
def _(_world: World) -> None:
    with portal() as made:
        made.open_model(*MODEL)
        made.close()
        made.close()
        refuses(made.close, WRONG)


@case("Worker.__init__")
def _(_world: World) -> None:
    with ring() as (fd, control), memfd(64) as short:
        Worker(fd, control, KERNEL)  # closed by its end alone
        worker = Worker(fd, control, KERNEL, 1000)
        refuses(worker.__init__, fd, control, KERNEL)  # type: ignore[misc]
        refuses_all_wrong(Worker, fd, control, KERNEL, 1000, optional=1)
        refuses(Worker, fd, control, "none")
        for wrong in ((NOWHERE, control), (fd, NOWHERE), (short, control), (fd, short)):
            refuses(Worker, *wrong, KERNEL)
    refuses(Worker.__new__(Worker).serve, 0)


@case("Worker.attach")
def _(world: World) -> None:
    size = PAGES * PAGE
    good = (1, world.ram, 0, size, PAGE, 0, 0, True)
    world.worker.attach(*good)
    refuses(world.worker.attach, *good)
    world.worker.detach(1)
    refuses_all_wrong(world.worker.attach, *good)
    for start, length, page in (
        (1, size, PAGE),
        (0, size + 1, PAGE),
        (0, size, 1000),
        (0, 0, PAGE),
    ):
        refuses(world.worker.attach, 1, world.ram, start, length, page, 0, 0, True)
    refuses(world.worker.attach, 1, NOWHERE, *good[2:])
    with pipe() as (read, _write):
        refuses(world.worker.attach, 1, read, *good[2:])  # it cannot be mapped


@case("Worker.copy_to")
def _(world: World) -> None:
    with memfd(PAGE) as fd, memfd(PAGE) as state, pipe() as (read, _write):
        refuses(world.worker.copy_to, 1, fd, state, 0, False, False)  # no such block
        world.attach(1)
        good = (1, fd, state, PAGE, True, True)
        refuses_all_wrong(world.worker.copy_to, *good)
        refuses(world.worker.copy_to, 1, NOWHERE, state, 0, False, False)
        refuses(world.worker.copy_to, 1, fd, NOWHERE, 0, False, False)
        refuses(world.worker.copy_to, 1, fd, read, 0, False, False)  # it cannot be mapped
        refuses(world.worker.copy_to, 1, fd, state, 1, False, False)
        refuses(world.worker.copy_to, 1, fd, state, 1 << 63, False, False)
        world.worker.copy_to(*good)
        refuses(world.worker.copy_to, *good)  # it has one
        world.worker.detach(1)


@case("Worker.detach")
def _(world: World) -> None:
    world.attach(1)
    world.worker.detach(1)
    world.worker.detach(1)
    refuses_all_wrong(world.worker.detach, 1)


LIMITS = (64, 0, 1 << 21, FAR)


@case("Worker.open_queue")
def _(world: World) -> None:
    with pipe() as (_read, write), memfd(PAGE) as state:
        good = (write, "write", *LIMITS, state)
        refuses_all_wrong(world.worker.open_queue, *good, optional=1)
        refuses(world.worker.open_queue, NOWHERE, *good[1:])
        refuses(world.worker.open_queue, *good[:-1], NOWHERE)
        refuses(world.worker.open_queue, write, "enqcmd", *LIMITS)  # no device
        world.worker.open_queue(*good)
        refuses(world.worker.open_queue, *good)
        world.close_queue()


@case("Worker.open_model")
def _(world: World) -> None:
    good = (*MODEL, *MODEL_MORE, FAR)
    refuses_all_wrong(world.worker.open_model, *good)
    refuses(world.worker.open_model)
    refuses(world.worker.open_model, "none", *good[1:])
    refuses(world.worker.open_model, *MODEL, 5, False, True, FAR)
    world.worker.open_model(*good)
    refuses(world.worker.open_model, *good)
    with world.batch_out():
        pass
    world.close_queue()


@case("Worker.close_queue")
def _(world: World) -> None:
    world.worker.open_model(*MODEL, *MODEL_MORE, FAR)
    world.close_queue()
    world.worker.close_queue()
    refuses(world.worker.close_queue, WRONG)


@case("Worker.queue_state")
def _(world: World) -> None:
    assert world.worker.queue_state()[0] == _native.QUEUE_NONE
    refuses(world.worker.queue_state, WRONG)


@case("Worker.queue_failure")
def _(_world: World) -> None:
    failing = World()
    assert failing.worker.queue_failure() is None
    failing.worker.open_model(*MODEL[:7], "hw-error", 0, *MODEL_MORE, FAR)
    for _ in range(20):  # one descriptor in eight
        with failing.batch_out():
            pass
    failure = failing.worker.queue_failure()
    assert failure is not None
    assert [len(each) for each in failure] == [64, 32]
    refuses(failing.worker.queue_failure, WRONG)
    failing.close()
    refuses(failing.worker.queue_failure)


@case("Worker.serve")
def _(world: World) -> None:
    assert world.worker.serve(0) == _native.SERVE_TIMEOUT
    refuses_all_wrong(world.worker.serve, 0)
    with world.serving():
        pass


@case("Worker.close")
def _(_world: World) -> None:
    closed = World()
    closed.worker.open_model(*MODEL, *MODEL_MORE, FAR)
    closed.close()
    closed.worker.close()
    refuses(closed.worker.close, WRONG)
    refuses(closed.worker.serve, 0)
