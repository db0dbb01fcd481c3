"""Seeded random worlds: `pytest tests/stress --worlds N --seed S`.

A failure names its seed; `--worlds 1 --seed THAT` runs the same world again. What two threads do
at the same time is not repeated exactly, the rest is.
"""

from pathlib import Path

import pytest

from pagecheck import Coordinator
from pagecheck.errors import UsageError
from pagecheck.native import _native
from tests.stress.run import Run
from tests.stress.world import World, ram_file, truth
from tests.support.leftovers import nothing_left

DEFAULT_WORLDS = 30


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("--seed")
        worlds = metafunc.config.getoption("--worlds")
        count = DEFAULT_WORLDS if worlds is None else worlds
        metafunc.parametrize("seed", range(first, first + count))


def run_world(world: World, folder: Path) -> None:
    with (
        ram_file(world, folder) as (fd, source),
        Coordinator(channels=world.channels, batch_pages=world.batch_pages) as coordinator,
    ):
        known = truth(world, fd)
        block = coordinator.attach(
            source,
            page_size=world.page_size,
            offset=world.start,
            length=world.pages * world.page_size,
            holes=world.holes,  # type: ignore[arg-type]
            access=world.access,  # type: ignore[arg-type]
        )
        Run(world, known, coordinator, block).go()
        assert truth(world, fd).blocks == known.blocks, "looking changed the file"
        coordinator.detach(block)


def test_world(seed: int, tmp_path: Path) -> None:
    world = World.from_seed(seed)
    try:
        with nothing_left():
            run_world(world, tmp_path)
    except UsageError as error:
        if world.file_system == "disk" and "file system" in str(error):
            pytest.skip(f"tmp_path lies on a file system that cannot do this: {error}")
        raise
    except Exception as error:
        again = f"again: pytest tests/stress --worlds 1 --seed {seed}"
        raise AssertionError(f"{world}\n{again}\n{type(error).__name__}: {error}") from error


def test_a_seed_makes_one_world() -> None:
    assert World.from_seed(7) == World.from_seed(7)
    assert len({World.from_seed(n).page_size for n in range(50)}) > 4


def test_the_kernels_of_this_machine_are_proved() -> None:
    assert all(_native.kernel_self_check(n) for n, why, _u in _native.kernels() if why is None)
