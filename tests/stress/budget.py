"""How long the tests of this folder go on: some rounds each, or together as long as asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from pagecheck import clock

TIMEOUT_S: Final = 300.0  # of a round that has begun, and of what is around all of them


class Budget:
    """The rounds of one test, each with a seed of its own.

    Attributes:
        seed: of the first round.
        seconds: that this test may take; None: the number of rounds is given.
    """

    def __init__(self, seed: int, rounds: int | None, seconds: float | None) -> None:
        self.seed = seed
        self.seconds = seconds
        self._rounds = rounds

    def seeds(self, rounds: int) -> Iterator[int]:
        """The seed of each round.

        Args:
            rounds: how many there are where nothing was asked for.
        """
        number, started = 0, clock.now_s()
        most = rounds if self._rounds is None else self._rounds
        while self._goes_on(number, most, started):
            yield self.seed + number
            number += 1

    def _goes_on(self, number: int, most: int, started: float) -> bool:
        if self.seconds is None:
            return number < most
        return number == 0 or clock.now_s() - started < self.seconds


def share_s(config: pytest.Config, items: list[pytest.Item]) -> float | None:
    """Seconds for each of the tests that have a budget; None where --minutes was not given."""
    minutes = config.getoption("--minutes")
    if minutes is None:
        return None
    return 60 * float(minutes) / max(1, sum(has_budget(item) for item in items))


def has_budget(item: pytest.Item) -> bool:
    """Whether it goes on for as long as was asked for."""
    return "budget" in getattr(item, "fixturenames", ())
