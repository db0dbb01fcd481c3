"""Direct channels whose workers, or whose whole host, stand still. The clock is the test's."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from pagecheck import Coordinator
from pagecheck.child import watch
from pagecheck.clock import STEP_NS
from pagecheck.coordinator.settings import Settings
from pagecheck.errors import EngineError
from pagecheck.service.direct import IDLE_NS, LOOK_NS, DirectChannel
from pagecheck.shm.layout import CONTROL
from tests.support.clock import MovedClock
from tests.support.known_ram import KnownRam
from tests.support.waiting import wait_for

WAIT_MS = 30_000  # no longer than it takes
STALL_NS = 2 * 10**9
SETTINGS = Settings("cpu", (), False, None, 16, 128, 0, STALL_NS)


@pytest.fixture
def channel() -> Iterator[DirectChannel]:
    opened = DirectChannel(3, 0, SETTINGS, 16, 128, 0)
    yield opened
    if not opened.is_gone:
        os.kill(opened.pid, signal.SIGCONT)
    opened.close()


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    wait_for(is_stopped, "a stopped worker")


def take_a_batch(channel: DirectChannel) -> None:
    """As if the worker had one in hand."""
    os.pwrite(channel.control_fd, (1).to_bytes(8, "little"), CONTROL["deciding"].offset)


def looks(channel: DirectChannel, moved_clock: MovedClock, ns: int) -> int:
    """Looks after the channel for so long.

    Returns:
        Nanoseconds after which it was found gone; 0: it was not.
    """
    begun = moved_clock.ns
    while (looked := moved_clock.ns - begun) <= ns:
        channel.supervise()  # a kill moves the clock, too: it waits for the end
        if channel.is_gone:
            return looked
        moved_clock.ns += LOOK_NS
    return 0


@pytest.mark.parametrize("in_hand", [False, True])
def test_a_host_that_stood_still_is_no_fault_of_the_worker(
    channel: DirectChannel, moved_clock: MovedClock, in_hand: bool
) -> None:
    freeze(channel.pid)  # as the whole host
    if in_hand:
        take_a_batch(channel)
    assert looks(channel, moved_clock, STALL_NS // 2) == 0
    for _ in range(3):
        moved_clock.ns += 10**12
        channel.supervise()
    assert not channel.is_gone


def test_a_worker_that_stands_still_with_a_batch_is_hung(
    channel: DirectChannel, moved_clock: MovedClock
) -> None:
    freeze(channel.pid)
    take_a_batch(channel)
    assert STALL_NS <= looks(channel, moved_clock, 10**11) <= STALL_NS + 3 * LOOK_NS


def test_a_worker_that_is_stopped_while_idle_is_noticed(
    channel: DirectChannel, moved_clock: MovedClock
) -> None:
    freeze(channel.pid)
    assert IDLE_NS <= looks(channel, moved_clock, 10**11) <= IDLE_NS + 3 * LOOK_NS


def test_an_idle_worker_gives_signs(channel: DirectChannel, moved_clock: MovedClock) -> None:
    before = channel._activity()
    wait_for(lambda: channel._activity() > before, "a sign of an idle worker")
    assert looks(channel, moved_clock, IDLE_NS - LOOK_NS) == 0
    before = channel._activity()
    wait_for(lambda: channel._activity() > before, "another one")
    assert looks(channel, moved_clock, IDLE_NS - LOOK_NS) == 0


def test_an_idle_time_is_not_counted_for_a_batch(
    channel: DirectChannel, moved_clock: MovedClock
) -> None:
    freeze(channel.pid)
    assert looks(channel, moved_clock, STALL_NS) == 0
    take_a_batch(channel)
    assert looks(channel, moved_clock, STALL_NS - LOOK_NS) == 0


@pytest.mark.parametrize("tell", [DirectChannel.attach, DirectChannel.detach])
def test_a_frozen_worker_owes_a_reply_for_as_long_as_stall_says(
    channel: DirectChannel,
    known_ram: KnownRam,
    monkeypatch: pytest.MonkeyPatch,
    tell: Callable[..., None],
) -> None:
    """For ever, if it were for the other limit."""
    monkeypatch.setattr(watch, "REPLY_NS", 10**15)
    channel._settings = SETTINGS._replace(stall_ns=10**8)
    with Coordinator(engine="none") as other:
        block = other.attach(f"fd:{known_ram.fd}")
        freeze(channel.pid)
        with pytest.raises(EngineError, match=r"did not say '\w+' in time; open another one"):
            tell(channel, 0, *([block] if tell is DirectChannel.attach else []))
    assert channel.is_gone


def test_one_that_is_frozen_for_less_is_not_given_up(
    channel: DirectChannel, known_ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 s were its time, whatever --stall said: here the clock runs fast."""
    channel._settings = SETTINGS._replace(stall_ns=60 * 10**9)
    steps = iter(range(10**9))
    woken: list[int] = []

    class Fast(MovedClock):
        def now_ns(self) -> int:
            if not woken:
                self.ns += STEP_NS
            if next(steps) == 500:  # 25 s
                os.kill(channel.pid, signal.SIGCONT)
                woken.append(1)
            return self.ns

        def wait_ready(self, fd: int, deadline_ns: int, events: int = select.POLLIN) -> int:
            poll = select.poll()
            poll.register(fd, events)
            return 1 if poll.poll(WAIT_MS if woken else 0) else 0

    with Coordinator(engine="none") as other:
        block = other.attach(f"fd:{known_ram.fd}")
        freeze(channel.pid)
        Fast().install(monkeypatch)
        channel.attach(0, block)
    assert woken
    assert not channel.is_gone
