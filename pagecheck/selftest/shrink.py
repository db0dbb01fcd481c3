"""The shortest line that still fails: what a failing world has is taken from it, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pagecheck import clock
from pagecheck.selftest.world import World

_KEPT: Final = ("seed", "place")
_COUNTS: Final = ("pages", "channels", "threads", "checks", "kills", "batch_pages", "run")


def shortest(world: World, fails: Callable[[World], bool], seconds: float) -> tuple[World, bool]:
    """Tries simpler worlds as long as there is time.

    Args:
        fails: runs a world; whether it fails as this one did.

    Returns:
        The simplest world that failed, and whether the given one failed again.
    """
    until = clock.now_s() + seconds
    if not any(fails(world) for _ in range(3)):
        return world, False
    before = None
    while world != before:
        before = world
        for name in World._fields:
            if name not in _KEPT:
                world = _simplest(world, name, lambda each: clock.now_s() < until and fails(each))
    return world, True


def _simplest(world: World, name: str, fails: Callable[[World], bool]) -> World:
    """The world with as little of one thing as still fails."""
    value: Any = getattr(world, name)
    least: Any = getattr(World(), name)
    if name == "source" and world.place not in ("memfd", "hugetlb"):
        least = value if value == "pid" else "path"
    if value == least:
        return world
    if fails(simpler := _with(world, name, least)):
        return simpler
    while name in _COUNTS and abs(value - least) > 1:
        middle = (value + least) // 2
        if fails(simpler := _with(world, name, middle)):
            world, value = simpler, middle
        else:
            least = middle
    return world


def _with(world: World, name: str, value: Any) -> World:
    made = world._replace(**{name: value})
    if name == "wq":
        made = made._replace(engine="cpu")
    if name == "engine":
        made = made._replace(wq="")
    if name == "page_size" and world.start:  # a multiple of the page size, before and after
        made = made._replace(start=made.page_size)
    return made
