"""Time that counts: a freeze of ours is not the other side's."""

from __future__ import annotations

import contextlib
import os
import select
import socket

import pytest

from pagecheck import clock
from pagecheck.child.watch import Watch
from pagecheck.clock import STEP_NS, Allowance, Elapsed
from pagecheck.service.protocol import Connection, NotReceived
from tests.support.clock import MovedClock


def test_what_passes_between_looks_counts(moved_clock: MovedClock) -> None:
    counted = Elapsed()
    for steps in range(1, 5):
        moved_clock.ns += STEP_NS
        assert counted.sample() == steps * STEP_NS
    counted.restart()
    assert counted.sample() == 0


def test_a_freeze_counts_for_two_steps(moved_clock: MovedClock) -> None:
    counted = Elapsed(7)
    moved_clock.ns += 10**12
    assert counted.sample() == 14
    assert counted.sample() == 14


def test_an_allowance_ends(moved_clock: MovedClock) -> None:
    limit = Allowance(3 * STEP_NS)
    assert limit.step_end_ns() == moved_clock.ns + STEP_NS
    assert limit.end_ns() == moved_clock.ns + 3 * STEP_NS
    moved_clock.ns += 2 * STEP_NS
    assert not limit.is_used_up()
    moved_clock.ns += STEP_NS // 2
    assert limit.step_end_ns() == moved_clock.ns + STEP_NS // 2
    moved_clock.ns += STEP_NS // 2
    assert limit.is_used_up()
    assert limit.step_end_ns() == limit.end_ns() == moved_clock.ns


def test_an_allowance_outlives_a_freeze(moved_clock: MovedClock) -> None:
    limit = Allowance(10 * STEP_NS)
    moved_clock.ns += 10**12
    assert not limit.is_used_up()
    assert limit.end_ns() == moved_clock.ns + 8 * STEP_NS


@pytest.mark.parametrize("ns", [0, -5])
def test_nothing_is_allowed(moved_clock: MovedClock, ns: int) -> None:
    limit = Allowance(ns)
    assert limit.is_used_up()
    assert limit.step_end_ns() <= moved_clock.ns


def test_a_word_that_stands_still(moved_clock: MovedClock) -> None:
    words = [5]
    watch = Watch(lambda: words[0])
    moved_clock.ns += STEP_NS
    assert watch.unchanged_ns() == STEP_NS
    moved_clock.ns += 10**12  # we stood still, and perhaps the worker with us
    assert watch.unchanged_ns() == 3 * STEP_NS
    words[0] += 1
    assert watch.unchanged_ns() == 0


def test_a_descriptor_that_is_ready() -> None:
    reading, writing = os.pipe()
    try:
        assert clock.wait_ready(reading, 0) == 0
        assert clock.wait_ready(reading, clock.now_ns() + 1_500_000) == 0
        assert clock.wait_ready(writing, 0, select.POLLOUT) == select.POLLOUT
        os.write(writing, b"x")
        assert clock.wait_ready(reading, 1 << 62) == select.POLLIN  # more than poll(2) takes
    finally:
        os.close(reading)
        os.close(writing)


def test_deadlines_pass_on_a_moved_clock(moved_clock: MovedClock) -> None:
    """Of a wait for an answer, and of one for a peer that does not read: hours, told at once."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs), contextlib.closing(Connection(ours, 1 << 16)) as connection:
        deadline_ns = moved_clock.ns + 3600 * 10**9
        assert connection.receive(deadline_ns) is None
        assert moved_clock.ns >= deadline_ns
        with pytest.raises(NotReceived, match="does not read"):
            connection.send({"text": "x" * (1 << 24)}, (), moved_clock.ns + 3600 * 10**9)
        assert moved_clock.ns >= deadline_ns + 3600 * 10**9 - 2 * STEP_NS
