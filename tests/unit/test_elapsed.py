"""Time that counts: a freeze of ours is not the other side's."""

from __future__ import annotations

import pytest

from pagecheck import elapsed
from pagecheck.coordinator.watch import Watch
from pagecheck.elapsed import STEP_NS, Allowance, Elapsed


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(elapsed, "time", made)
    return made


def test_what_passes_between_looks_counts(clock: Clock) -> None:
    counted = Elapsed()
    for steps in range(1, 5):
        clock.now_ns += STEP_NS
        assert counted.look() == steps * STEP_NS
    counted.restart()
    assert counted.look() == 0


def test_a_freeze_counts_for_two_steps(clock: Clock) -> None:
    counted = Elapsed(7)
    clock.now_ns += 10**12
    assert counted.look() == 14
    assert counted.look() == 14


def test_an_allowance_ends(clock: Clock) -> None:
    limit = Allowance(3 * STEP_NS)
    assert limit.step_end_ns() == clock.now_ns + STEP_NS
    assert limit.end_ns() == clock.now_ns + 3 * STEP_NS
    clock.now_ns += 2 * STEP_NS
    assert not limit.is_used_up()
    clock.now_ns += STEP_NS // 2
    assert limit.step_end_ns() == clock.now_ns + STEP_NS // 2
    clock.now_ns += STEP_NS // 2
    assert limit.is_used_up()
    assert limit.step_end_ns() == limit.end_ns() == clock.now_ns


def test_an_allowance_outlives_a_freeze(clock: Clock) -> None:
    limit = Allowance(10 * STEP_NS)
    clock.now_ns += 10**12
    assert not limit.is_used_up()
    assert limit.end_ns() == clock.now_ns + 8 * STEP_NS


@pytest.mark.parametrize("ns", [0, -5])
def test_nothing_is_allowed(clock: Clock, ns: int) -> None:
    limit = Allowance(ns)
    assert limit.is_used_up()
    assert limit.step_end_ns() <= clock.now_ns


def test_a_word_that_stands_still(clock: Clock) -> None:
    words = [5]
    watch = Watch(lambda: words[0])
    clock.now_ns += STEP_NS
    assert watch.still_ns() == STEP_NS
    clock.now_ns += 10**12  # we stood still, and perhaps the worker with us
    assert watch.still_ns() == 3 * STEP_NS
    words[0] += 1
    assert watch.still_ns() == 0
