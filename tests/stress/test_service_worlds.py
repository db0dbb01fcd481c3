"""Seeded random lives of a service: `pytest tests/stress/test_service_worlds.py --minutes N`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pagecheck.selftest.places import Place
from tests.stress.budget import Budget
from tests.stress.service_world import ServiceRun, ServiceWorld
from tests.support.example import build
from tests.support.leftovers import nothing_left
from tests.support.service import services

DEFAULT_WORLDS = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client in C."""
    return build("gcc", tmp_path_factory.mktemp("example"))


def test_service_worlds(budget: Budget, places: dict[str, Place], program: Path) -> None:
    opened = {name: place for name, place in places.items() if name != "overlay"}
    for seed in budget.seeds(DEFAULT_WORLDS):
        world = ServiceWorld.from_seed(seed)
        try:
            with nothing_left(5), tempfile.TemporaryDirectory(prefix="pcs-", dir="/tmp") as folder:
                run_service(world, Path(folder), opened, program)
        except Exception as error:
            again = f"pytest {Path(__file__).name} --worlds 1 --seed {seed}"
            raise AssertionError(f"{world}: {error}\nagain: {again}") from error


def run_service(world: ServiceWorld, folder: Path, places: dict[str, Place], program: Path) -> None:
    with services(folder) as start:
        service = start(*world.engine, "--channels", world.channels)
        run = ServiceRun(world, service, program)
        run.go(places)
        assert run.answers
