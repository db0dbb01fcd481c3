"""One world from its beginning to its end: made, run, compared, and nothing of it left."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from pagecheck.coordinator.coordinator import Coordinator
from pagecheck.errors import UsageError
from pagecheck.selftest.content import truth, write
from pagecheck.selftest.left import nothing_left
from pagecheck.selftest.places import in_process, made, read_only
from pagecheck.selftest.round_trip import round_trip
from pagecheck.selftest.run import Run
from pagecheck.selftest.wrong import require
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pagecheck.coordinator.block import Block
    from pagecheck.selftest.places import Place, Ram
    from pagecheck.selftest.world import World


class Tried(NamedTuple):
    """What a world came to.

    Attributes:
        answers: scans and checks that were compared.
        kills: workers that were sent SIGKILL.
        saves: round trips through a snapshot.
    """

    answers: int
    kills: int
    saves: int


def run_world(world: World, places: Mapping[str, Place]) -> Tried:
    """Runs it.

    Args:
        places: those of this host, by name.

    Raises:
        Wrong: an answer is not right, or something is left.
        UsageError: the world has a place that this host has not.
    """
    place = places.get(world.place)
    if place is None:
        raise UsageError(f"place {world.place!r}: is not one of {', '.join(places)}")
    with nothing_left() as names, made(place) as file:
        write(world, file)
        read_only(file)
        with _ram(place, file) as ram, _coordinator(world) as coordinator:
            names.of(coordinator)
            before = truth(world, ram.fd)
            with _attached(coordinator, world, ram) as block:
                holes = place.holes and not place.is_private
                run = Run(world, before, coordinator, block, holes=holes)
                run.go()
            require(truth(world, ram.fd).blocks == before.blocks, "looking changed the file")
            if world.saves:
                round_trip(world, ram.path, place.folder, coordinator)
    return Tried(run.answers, run.killed, int(world.saves))


@contextlib.contextmanager
def _ram(place: Place, file: Ram) -> Iterator[Ram]:
    if not place.is_private:
        yield file
        return
    with in_process(file) as ram:
        yield ram


def _coordinator(world: World) -> Coordinator:
    return Coordinator(
        channels=world.channels,
        engine=world.engine,  # type: ignore[arg-type]
        wq=[world.wq] if world.wq else [],
        kernel=world.kernel or None,
        batch_pages=world.batch_pages or None,
    )


@contextlib.contextmanager
def _attached(coordinator: Coordinator, world: World, ram: Ram) -> Iterator[Block]:
    if ram.pid:
        with ProcessMemory(ram.pid) as process:
            text = f"pid:{ram.pid}"
            private = open_private(process, text, "ram", ram.base, world.bytes)
        block = coordinator.attach(private, page_size=world.page_size)
    else:
        block = coordinator.attach(
            _source(world, ram),
            page_size=world.page_size,
            offset=world.start,
            length=world.bytes,
            holes=world.holes,  # type: ignore[arg-type]
            access=world.access,  # type: ignore[arg-type]
            format="raw",
        )
    try:
        yield block
    finally:
        coordinator.detach(block)


def _source(world: World, ram: Ram) -> str:
    if world.source == "path":
        return ram.path
    if world.source == "shm":
        return f"shm:/{ram.path.rpartition('/')[2]}"
    return f"fd:{ram.fd}"
