"""The soak: clients, scans, channels, saves, kills and restarts, and a rest after each turn."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from pagecheck import Client
from tools.bench.rows import lines_up
from tools.served import Served, served
from tools.soak.actor import ActorProcess, Done
from tools.soak.ram import KnownRam
from tools.soak.rest import Rest, at_rest, growth
from tools.soak.roles import ROLES

HEADINGS: Final = (
    *("turn", "service MiB", "workers MiB", "fds", "threads", "processes", "segments", "files"),
    *("p50 us", "p99 us", "p99.9 us", "checks", "other work", "killed"),
)


class Window(NamedTuple):
    """One turn of all actors, and the rest after it.

    Attributes:
        done: what each actor did, in the order of ROLES.
        killed: workers of the service that were killed meanwhile.
    """

    rest: Rest
    done: list[Done]
    killed: int

    @property
    def errors(self) -> list[str]:
        """What went wrong."""
        return [f"{each.role}: {each.error}" for each in self.done if each.error is not None]


class Soak(NamedTuple):
    """A whole run."""

    windows: list[Window]

    @property
    def faults(self) -> list[str]:
        """Wrong answers, errors, and what grew."""
        return [line for each in self.windows for line in each.errors] + growth(
            [each.rest for each in self.windows]
        )

    @property
    def table(self) -> str:
        """For a terminal."""
        return lines_up([HEADINGS, *map(_cells, enumerate(self.windows, 1))], text=0)


def _cells(numbered: tuple[int, Window]) -> tuple[str, ...]:
    number, window = numbered
    rest = window.rest
    checks = next(each for each in window.done if each.role == "channel")
    other = sum(each.things for each in window.done) - checks.things
    return (
        str(number),
        *(f"{kib / 1024:.1f}" for kib in rest[:2]),
        *map(str, rest.counts),
        *(f"{us:.0f}" for us in checks.percentiles_us[:3]),
        *map(str, (checks.things, other, window.killed)),
    )


def soak(seconds: float, turns: int, seed: int, folder: Path, told: Callable[[int], None]) -> Soak:
    """Runs it.

    Args:
        seconds: of each turn.
        folder: an empty one, for the files of the actors.
        told: called after each turn with how many are done.

    Raises:
        RuntimeError: an actor ended.
    """
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(served())
        actors = [
            stack.enter_context(ActorProcess(role, service.path, folder, seed + index))
            for index, role in enumerate(ROLES)
        ]
        windows: list[Window] = []
        first: Rest | None = None
        for turn in range(turns):
            for actor in actors:
                actor.start(seconds)
            killed = _disturb(service, seconds, chance)
            done = [actor.result() for actor in actors]
            rest = at_rest(service.pid, folder, first)
            first = first or rest
            windows.append(Window(rest, done, killed))
            told(turn + 1)
        return Soak(windows)


def _disturb(service: Served, seconds: float, chance: random.Random) -> int:
    """Kills a worker, and starts and ends another service, at random moments of a turn."""
    begun = time.monotonic()
    time.sleep(chance.uniform(0.1, 0.4) * seconds)
    workers = psutil.Process(service.pid).children(recursive=True)
    with contextlib.suppress(psutil.Error):
        chance.choice(workers).send_signal(signal.SIGKILL)
    _restart()
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    return 1


def _restart() -> None:
    """A service that is started, used and ended."""
    with _known(64) as ram, served() as other, Client(other.path) as client:
        (block,) = client.attach(ram.fd)
        counts = client.check([block]).blocks[0].counts
        if counts.zero != int(ram.zero.sum()):
            raise RuntimeError(f"a restarted service: {counts}")


@contextlib.contextmanager
def _known(pages: int) -> Iterator[KnownRam]:
    ram = KnownRam(pages, 1)
    try:
        yield ram
    finally:
        os.close(ram.fd)
