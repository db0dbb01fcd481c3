"""Seeded random private memory: `pytest tests/stress -k private --minutes N --seed S`."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest

from pagecheck import Coordinator
from tests.stress.budget import Budget
from tests.stress.private_world import PrivateWorld
from tests.support.footprint import unchanged
from tests.support.looking import PAGE_SIZES, attached, of_check, of_report, opened
from tests.support.rams import PAGE
from tests.support.target import Target, assert_right, joined, swap_file

DEFAULT_WORLDS = 60


@pytest.fixture(scope="module")
def swaps() -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(swap_file())
        except pytest.skip.Exception:
            yield False
            return
        yield True


@pytest.fixture(scope="module")
def coordinators() -> Iterator[list[Coordinator]]:
    with Coordinator(1) as one, Coordinator(3, batch_pages=32) as three:
        yield [one, three]


def test_private_worlds(budget: Budget, swaps: bool, coordinators: list[Coordinator]) -> None:
    for seed in budget.seeds(DEFAULT_WORLDS):
        run_private_world(seed, swaps, coordinators)


def run_private_world(seed: int, swaps: bool, coordinators: list[Coordinator]) -> None:
    with Target() as target:
        world = PrivateWorld(target, seed, swaps=swaps)
        rng = random.Random(seed)
        page_size, coordinator = rng.choice(PAGE_SIZES), rng.choice(coordinators)
        right = joined(world.area.may, page_size // PAGE)

        def look() -> None:
            with attached(coordinator, opened(world.area), page_size) as block:
                assert_right(of_report(coordinator.scan(block)), right)
                some = [rng.randrange(len(right)) for _ in range(200)]
                assert_right(of_check(coordinator, block, some), right[some])

        try:
            unchanged(target.pid, look)
        except AssertionError as error:
            steps = "\n".join(world.done)
            again = f"pytest tests/stress -k private --worlds 1 --seed {seed}"
            raise AssertionError(f"{error}\nagain: {again}\n{steps}") from error
