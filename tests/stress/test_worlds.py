"""Seeded random worlds, on every place that can be made here, by every kernel and in every way to
submit: `pytest tests/stress/test_worlds.py --minutes N --seed S`.

A failure prints the shortest line that still fails; `--world LINE` runs that world again. What two
threads do at the same time is not repeated exactly, the rest is.
"""

from __future__ import annotations

import shlex

import pytest

from pagecheck.errors import UsageError
from pagecheck.native import _native
from pagecheck.selftest.kernels import try_kernel, usable_kernels
from pagecheck.selftest.places import Place, candidates
from pagecheck.selftest.run import Hung
from pagecheck.selftest.shrink import shortest
from pagecheck.selftest.trial import run_world
from pagecheck.selftest.world import Choice, World, make, parse
from tests.stress.budget import Budget
from tests.support.leftovers import nothing_left
from tests.support.rams import huge_reserved

DEFAULT_WORLDS = 12
DEFAULT_HUGE_WORLDS = 3
HUGE_PAGES = 12
SHRINK_S = 60.0
MODES = ("shared", "dedicated", "write")
PLANS = (
    "none", "random", "page-fault", "page-fault-masked", "list-fault", "abandoned", "record-fault",
    "false-batch-fail", "unknown-status", "late", "lost", "full", "disable", "einval-batch",
    "short", "store-order", "late-list", "neighbour", "eagain", "hw-error", "translation",
)  # fmt: skip
QUEUES = [f"model:mode={mode},faults={plan}" for plan in PLANS for mode in MODES]


def fails(world: World, places: dict[str, Place]) -> Exception | None:
    """Runs it; what was wrong, or None."""
    try:
        with nothing_left(5):
            run_world(world, places)
    except (Exception, AssertionError) as error:
        return error
    return None


def test_worlds(places: dict[str, Place], budget: Budget, pytestconfig: pytest.Config) -> None:
    line = pytestconfig.getoption("--world")
    if line is not None:
        run_world(parse(line), places)
        return
    for seed in budget.seeds(DEFAULT_WORLDS):
        require_right(seed, places)


def test_worlds_on_huge_pages(budget: Budget) -> None:
    try:
        with huge_reserved(HUGE_PAGES):
            (place,) = (each for each in candidates([]) if each.name == "hugetlb")
            places = {place.name: place._replace(maps=False)}
            for seed in budget.seeds(DEFAULT_HUGE_WORLDS):
                require_right(seed, places)
    except OSError as error:
        pytest.skip(f"needs huge pages: {error}")


def require_right(seed: int, places: dict[str, Place]) -> None:
    """Makes and runs the world of a seed; if that fails, one that is simpler."""
    world = make(seed, Choice(list(places.values()), usable_kernels(), QUEUES), seed)
    error = fails(world, places)
    if error is not None:
        raise AssertionError(told(seed, world, error, places)) from error


def told(seed: int, world: World, error: Exception, places: dict[str, Place]) -> str:
    """What was wrong, and the line that repeats it."""
    short, repeated = world, False
    if not isinstance(error, Hung):

        def alike(simpler: World) -> bool:
            return type(fails(simpler, places)) is type(error)

        short, repeated = shortest(world, alike, SHRINK_S)
    again = f"pytest tests/stress/test_worlds.py --world {shlex.quote(short.line())}"
    often = "" if repeated else " (it did not fail again in 3 tries)"
    return f"seed {seed}: {type(error).__name__}: {error}\nagain: {again}{often}"


def test_a_seed_makes_one_world(places: dict[str, Place]) -> None:
    choice = Choice(list(places.values()), usable_kernels(), QUEUES)
    assert make(7, choice) == make(7, choice)
    made = [make(seed, choice, seed) for seed in range(3 * len(QUEUES))]
    assert {world.place for world in made} == set(places)
    assert {world.kernel for world in made} == {"", *usable_kernels()}
    assert len({world.wq.rpartition(",seed=")[0] for world in made}) > len(QUEUES) // 2
    assert {world.saves for world in made} == {True, False}
    for world in made:
        assert parse(world.line()) == world


def test_the_kernels_of_this_machine_are_right(budget: Budget) -> None:
    for seed in budget.seeds(1):
        for name in usable_kernels():
            assert try_kernel(name, seed) > 1000
    assert all(_native.kernel_self_check(n) for n, why, _u in _native.kernels() if why is None)


def test_a_place_that_is_not_there(places: dict[str, Place]) -> None:
    with pytest.raises(UsageError, match="moon"):
        run_world(World(place="moon"), places)
