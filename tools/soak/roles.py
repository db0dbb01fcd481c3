"""The ways in which a service is used in a long run. Each compares every answer with the truth."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

import pagecheck
from pagecheck import Client, PagecheckError
from pagecheck.errors import LimitError, PeerError
from pagecheck.selftest.run import bits
from pagecheck.selftest.wrong import require, require_same
from tools.soak.ram import PAGE, KnownRam

BATCH_PAGES: Final = 128
PACE_S: Final = 0.001
RAM_PAGES: Final = 4096


class Turn:
    """What an actor does between two rests.

    Attributes:
        waits: seconds of each thing that it did.
        again: how often a worker that was killed, or a full service, made it try again.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None
        self.waits: list[float] = []
        self.again = 0

    def go_on(self) -> bool:
        """Whether there is time left; it begins with the first call, once all is set up."""
        if self._until is None:
            self._until = time.monotonic() + self._seconds
        return time.monotonic() < self._until

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Times one thing."""
        begun = time.perf_counter()
        yield
        self.waits.append(time.perf_counter() - begun)


class Actor:
    """What all roles have: the service's socket, a folder, random numbers, RAM."""

    def __init__(self, socket: str, folder: Path, seed: int, pages: int = RAM_PAGES) -> None:
        self.socket = socket
        self.folder = folder
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.ram = KnownRam(pages, seed)


def channel(actor: Actor, turn: Turn, pace_s: float = PACE_S) -> None:
    """A VMM: a batch of pages at a time through a direct channel."""
    with Client(actor.socket) as client:
        (block,) = client.attach(actor.ram.fd)
        opened = client.open_channel()
        while turn.go_on():
            pages = actor.numbers.integers(0, actor.ram.pages, BATCH_PAGES)
            try:
                with turn.timed():
                    answer = opened.check(block, pages.astype(np.uint64) * np.uint64(PAGE))
            except PeerError:  # its worker was killed
                turn.again += 1
                opened.close()
                opened = client.open_channel()
                continue
            right = answer.decided.all() and (answer.zero == actor.ram.zero[pages]).all()
            require(bool(right), f"a batch: {pages.tolist()}")
            time.sleep(pace_s)
        opened.close()


def busy_channel(actor: Actor, turn: Turn) -> None:
    """The same, without a rest between two batches."""
    channel(actor, turn, 0.0)


def command(actor: Actor, turn: Turn) -> None:
    """A tool: attaches, checks ranges, or all pages, by command, and detaches."""
    with Client(actor.socket) as client:
        while turn.go_on():
            (block,) = client.attach(actor.ram.fd)
            first = actor.random.randrange(actor.ram.pages)
            count = actor.random.randint(1, actor.ram.pages - first)
            with turn.timed():
                found = client.check([block], ranges=[{"first": first, "count": count}])
            zero = bits(found.blocks[0].zero, actor.ram.pages)
            truth = np.zeros(actor.ram.pages, np.bool_)
            truth[first : first + count] = actor.ram.zero[first : first + count]
            require_same(f"pages {first} and {count - 1} more", zero, truth)
            client.detach(block)


def whole(actor: Actor, turn: Turn) -> None:
    """A tool that has the same block checked again and again."""
    with Client(actor.socket) as client:
        (block,) = client.attach(actor.ram.fd)
        while turn.go_on():
            with turn.timed():
                found = client.check([block])
            zero = bits(found.blocks[0].zero, actor.ram.pages)
            require_same("a whole block", zero, actor.ram.zero)


def scan(actor: Actor, turn: Turn) -> None:
    """An operator: scans a file, by the service and without it."""
    path = f"/proc/self/fd/{actor.ram.fd}"
    with Client(actor.socket) as client:
        while turn.go_on():
            with turn.timed():
                report = client.scan(path)
            alone = pagecheck.scan(path, channels=1, engine="cpu")
            for each in (report, alone):
                zero = bits(each.blocks[0].zero, actor.ram.pages)
                require_same("a scan", zero, actor.ram.zero)


def save(actor: Actor, turn: Turn) -> None:
    """An operator: saves a file, verifies the snapshot and restores it."""
    raw, snapshot, back = (actor.folder / name for name in ("raw", "snapshot", "back"))
    os.close(KnownRam(actor.ram.pages, actor.random.randrange(1 << 30), str(raw)).fd)
    try:
        while turn.go_on():
            with turn.timed():
                pagecheck.save(raw, snapshot, channels=1, engine="cpu")
                pagecheck.verify(snapshot)
                pagecheck.restore(snapshot, str(back), channels=1)
            require(back.read_bytes() == raw.read_bytes(), "a restored file")
            shutil.rmtree(snapshot)
            back.unlink()
    finally:
        raw.unlink()


def killed(actor: Actor, turn: Turn) -> None:
    """Clients that are killed wherever they are."""
    while turn.go_on():
        pid = os.fork()
        if pid == 0:
            _die_soon(actor)
        time.sleep(actor.random.uniform(0, 0.3))
        with turn.timed():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _die_soon(actor: Actor) -> None:
    """What a client does until it is killed; a full service is tried again."""
    try:
        while True:
            with contextlib.suppress(LimitError), Client(actor.socket) as client:
                (block,) = client.attach(actor.ram.fd)
                client.open_channel().check(block, [0])
                client.check([block])
    except PagecheckError as error:
        raise SystemExit(f"{error}") from error
    finally:
        os._exit(1)


ROLES: Final[dict[str, Callable[[Actor, Turn], None]]] = {
    "channel": channel,
    "command": command,
    "scan": scan,
    "save": save,
    "killed": killed,
}
LOADS: Final[dict[str, Callable[[Actor, Turn], None]]] = {
    "whole": whole,
    "busy-channel": busy_channel,
}
