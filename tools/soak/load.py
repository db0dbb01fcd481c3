"""The load: clients and channels raised until the service refuses, and who waits for how long."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pagecheck import Client, PagecheckError
from tools.bench.rows import lines_up
from tools.served import Served, served
from tools.soak.actor import ActorProcess, Done
from tools.soak.ram import PAGE
from tools.soak.roles import BATCH_PAGES

CLIENTS: Final = (1, 2, 4, 8, 16, 30)
CHANNELS: Final = (1, 2, 4, 8, 16)
WHOLE_PAGES: Final = 1 << 13
CHANNEL_PAGES: Final = 1 << 13
HEADINGS: Final = (
    *("what", "at once", "checks/s", "GB/s", "p50 us", "p99 us", "longest us"),
    *("its share us", "longest/(share + turn)", "fewest/most"),
)


class Step(NamedTuple):
    """What a number of clients, or channels, came to.

    Attributes:
        share_us: so many times as long as one of them alone takes in the median.
        alone_us: that median: one turn.
    """

    what: str
    done: list[Done]
    seconds: float
    pages: int
    alone_us: float

    @property
    def errors(self) -> list[str]:
        """What went wrong."""
        return [f"{each.role}: {each.error}" for each in self.done if each.error is not None]

    @property
    def share_us(self) -> float:
        """The time that a fair service takes, with so many others."""
        return self.alone_us * len(self.done)

    @property
    def worst(self) -> float:
        """The longest wait of any client, against its share and one turn."""
        return self.longest_us / (self.share_us + self.alone_us)

    @property
    def longest_us(self) -> float:
        """The longest wait of any client."""
        return max(each.percentiles_us[3] for each in self.done)

    @property
    def p99_us(self) -> float:
        """The largest of the clients' 99th percentiles."""
        return max(each.percentiles_us[1] for each in self.done)

    @property
    def checks(self) -> int:
        """Of all clients."""
        return sum(each.things for each in self.done)

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        counts = [each.things for each in self.done]
        p50 = sorted(each.percentiles_us[0] for each in self.done)[len(self.done) // 2]
        return (
            self.what,
            str(len(self.done)),
            f"{self.checks / self.seconds:.0f}",
            f"{self.checks * self.pages * PAGE / self.seconds / 1e9:.2f}",
            *(f"{us:.0f}" for us in (p50, self.p99_us, self.longest_us, self.share_us)),
            f"{self.worst:.2f}",
            f"{min(counts) / max(1, *counts):.2f}",
        )


class Load(NamedTuple):
    """A whole run.

    Attributes:
        refused: what the first refused client, and the first refused channel, are told.
    """

    steps: list[Step]
    refused: list[str]

    @property
    def faults(self) -> list[str]:
        """What went wrong."""
        return [line for step in self.steps for line in step.errors]

    @property
    def table(self) -> str:
        """For a terminal."""
        return lines_up([HEADINGS, *(step.cells for step in self.steps)], text=1)


def load(
    seconds: float,
    folder: Path,
    clients: Sequence[int] = CLIENTS,
    channels: Sequence[int] = CHANNELS,
) -> Load:
    """Runs it, `seconds` for each number of clients and of channels.

    Raises:
        RuntimeError: an actor ended.
    """
    with served() as service:
        steps = _steps("clients that check", "whole", service, seconds, folder, clients)
        steps += _steps("direct channels", "busy-channel", service, seconds, folder, channels)
        return Load(steps, [_full_of_clients(service), _full_of_channels(service)])


def _steps(
    what: str,
    role: str,
    service: Served,
    seconds: float,
    folder: Path,
    numbers: Sequence[int],
) -> list[Step]:
    found: list[Step] = []
    pages = WHOLE_PAGES if role == "whole" else CHANNEL_PAGES
    for number in numbers:
        with contextlib.ExitStack() as stack:
            actors = [
                stack.enter_context(ActorProcess(role, service.path, folder, seed, pages))
                for seed in range(number)
            ]
            for actor in actors:
                actor.start(seconds)
            done = [actor.result() for actor in actors]
        alone = found[0].alone_us if found else done[0].percentiles_us[0]
        each = WHOLE_PAGES if role == "whole" else BATCH_PAGES
        found.append(Step(what, done, seconds, each, alone))
    return found


def _full_of_clients(service: Served) -> str:
    """What the first client hears that finds no place."""
    with contextlib.ExitStack() as stack:
        number = 0
        while True:
            try:
                stack.enter_context(Client(service.path))
            except PagecheckError as error:
                return f"client {number + 1}: {type(error).__name__}: {error}"
            number += 1


def _full_of_channels(service: Served) -> str:
    """What a client hears that has as many channels as it may have."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(service.path))
        number = 0
        while True:
            try:
                stack.enter_context(contextlib.closing(client.open_channel()))
            except PagecheckError as error:
                return f"channel {number + 1}: {type(error).__name__}: {error}"
            number += 1
