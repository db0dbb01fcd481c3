"""One service, and clients in Python and C that use it at once while its workers are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pagecheck import Client
from pagecheck.errors import PeerError
from pagecheck.selftest.content import Truth, truth, write
from pagecheck.selftest.places import Place, Ram, in_process, made
from pagecheck.selftest.world import Choice, World, make
from pagecheck.service.remote_channel import RemoteChannel
from pagecheck.service.replies import RemoteBlock
from tests.support.bitmaps import Bools, bits
from tests.support.service import ServiceProcess

PATIENCE_S: Final = 90
ENGINES: Final = (
    ("--engine", "cpu"),
    ("--engine", "cpu", "--kernel", "portable"),
    ("--engine", "dsa", "--wq", "model:"),
    ("--engine", "dsa", "--wq", "model:mode=write,faults=page-fault"),
    ("--engine", "dsa", "--wq", "model:mode=dedicated,faults=random,seed=5"),
)


class ServiceWorld(NamedTuple):
    """What a seed decides.

    Attributes:
        clients, c_clients: in Python and in C.
        steps: of each client in Python.
        kills: SIGKILLs to random children of the service.
    """

    seed: int
    engine: tuple[str, ...]
    channels: int
    clients: int
    c_clients: int
    steps: int
    kills: int

    @classmethod
    def from_seed(cls, seed: int) -> ServiceWorld:
        dice = random.Random(seed)
        return cls(
            seed=seed,
            engine=dice.choice(ENGINES),
            channels=dice.randint(1, 3),
            clients=dice.randint(1, 4),
            c_clients=dice.randint(0, 2),
            steps=dice.randint(5, 20),
            kills=dice.choice([0, 0, 1, 3]),
        )


class ServiceRun:
    """What the clients share.

    Attributes:
        answers: that were compared.
    """

    def __init__(self, world: ServiceWorld, service: ServiceProcess, program: Path) -> None:
        self.world = world
        self.answers = 0
        self.killed = 0
        self._service = service
        self._program = program
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()

    def go(self, places: dict[str, Place]) -> None:
        """All clients at once; raises the first error."""
        dice = random.Random(self.world.seed + 1)
        threads = [
            *(self._thread(self._client, places, dice.random()) for _ in range(self.world.clients)),
            *(self._thread(self._c_client, dice.random()) for _ in range(self.world.c_clients)),
        ]
        for thread in threads:
            thread.join(PATIENCE_S)
        if self._errors:
            raise self._errors[0]
        assert not any(thread.is_alive() for thread in threads), "a client hangs"

    def _thread(self, target: Callable[..., None], *arguments: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                target(*arguments)
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _c_client(self, seed: float) -> None:
        """It compares every answer itself, and checks pages itself where it lost its channel."""
        dice = random.Random(seed)
        line = {
            "--size": f"{dice.choice([1, 3, 16])}M",
            "--packets": dice.choice([1, 50, 400]),
            "--channels": dice.randint(1, 3),
            "--outstanding": dice.choice([1, 4, 16]),
            "--spin-us": dice.choice([0, 0, 50]),
            "--seed": dice.randrange(1 << 30),
        }
        words = [str(word) for pair in line.items() for word in pair]
        ran = subprocess.run(
            [self._program, "--socket", self._service.path, "--may-fall-back", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        said = f"{words}: {ran.returncode} {ran.stdout} {ran.stderr}"
        assert '"wrong": 0' in ran.stdout, said
        assert ran.returncode == 0 or self.killed, said
        self.answers += 1

    def _client(self, places: dict[str, Place], seed: float) -> None:
        dice = random.Random(seed)
        while True:
            try:
                with Client(self._service.path) as client:
                    OneClient(self, client, places, dice).go()
                return
            except PeerError:  # of a direct channel whose worker was killed
                if not self.killed:
                    raise

    def kill_one(self, dice: random.Random) -> None:
        """A worker of the service, if one may still be killed."""
        with self._lock:
            if self.killed >= self.world.kills:
                return
            self.killed += 1
        children = self._service.children()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(children).pid, signal.SIGKILL)


class OneClient:
    """One client in Python, and the RAM that it attached."""

    def __init__(
        self, run: ServiceRun, client: Client, places: dict[str, Place], dice: random.Random
    ) -> None:
        self._run = run
        self._client = client
        self._places = places
        self._dice = dice
        self._stack = contextlib.ExitStack()
        self._known: list[tuple[RemoteBlock, Truth]] = []
        self._channel: RemoteChannel | None = None
        self._attaches = 0

    def go(self) -> None:
        """Steps in any order."""
        steps = [self._attach, self._check, self._check, self._some, self._selected, self._direct]
        steps += [self._direct, self._detach, self._stats, self._close_channel, self._kill]
        with self._stack:
            self._attach()
            for _ in range(self._run.world.steps):
                self._dice.choice(steps)()

    def _kill(self) -> None:
        self._run.kill_one(self._dice)

    def _attach(self) -> None:
        choice = list(self._places.values())
        place = self._dice.choice(choice)
        world = make(self._dice.randrange(1 << 30), _only(place))
        world = world._replace(pages=max(1, min(world.pages, (4 << 20) // world.page_size)))
        file = self._stack.enter_context(made(place))
        write(world, file)
        ram = self._stack.enter_context(in_process(file)) if place.is_private else file
        known = truth(world, ram.fd)
        self._known.append((self._attached(world, ram), known))

    def _attached(self, world: World, ram: Ram) -> RemoteBlock:
        """By a descriptor, a path, or a process."""
        self._attaches += 1
        how: dict[str, Any] = {"page_size": world.page_size, "holes": world.holes}
        how["name"] = f"ram{self._attaches}"
        if ram.pid:
            (block,) = self._client.attach(ram.fd, length=world.bytes, **how)
            return block
        source = ram.path or ram.fd  # descriptors only of memory
        how |= {"offset": world.start, "length": world.bytes, "format": "raw"}
        (block,) = self._client.attach(source, **how)
        return block

    def _detach(self) -> None:
        if len(self._known) > 1:
            block, _truth = self._known.pop(self._dice.randrange(len(self._known)))
            self._client.detach(block)

    def _check(self) -> None:
        """One or more blocks, whole."""
        asked = self._dice.sample(self._known, self._dice.randint(1, len(self._known)))
        checked = self._client.check([block for block, _truth in asked])
        for (block, known), found in zip(asked, checked.blocks, strict=True):
            whole = np.ones(block.ram.pages, np.bool_)
            self._compare(found, block, known, whole, checked.notes)

    def _some(self) -> None:
        """Ranges of one."""
        block, known = self._dice.choice(self._known)
        wanted = np.zeros(block.ram.pages, np.bool_)
        ranges = []
        for _ in range(self._dice.randint(1, 4)):
            first = self._dice.randrange(block.ram.pages)
            count = self._dice.randint(1, block.ram.pages - first)
            ranges.append({"first": first, "count": count})
            wanted[first : first + count] = True
        checked = self._client.check([block], ranges=ranges)
        self._compare(checked.blocks[0], block, known, wanted, checked.notes)

    def _selected(self) -> None:
        """Pages of one, chosen by a bitmap."""
        block, known = self._dice.choice(self._known)
        draw = np.random.default_rng(self._dice.randrange(1 << 30))
        wanted = draw.random(block.ram.pages) < self._dice.choice([0.01, 0.5, 1])
        padded = np.zeros(-(-len(wanted) // 64) * 64, np.bool_)
        padded[: len(wanted)] = wanted
        bitmap = os.memfd_create("bitmap")
        try:
            os.pwrite(bitmap, np.packbits(padded, bitorder="little").tobytes(), 0)
            checked = self._client.check([block], bitmap=bitmap)
        finally:
            os.close(bitmap)
        self._compare(checked.blocks[0], block, known, wanted, checked.notes)

    def _compare(
        self, found: Any, block: RemoteBlock, known: Truth, wanted: Bools, notes: tuple[str, ...]
    ) -> None:
        zero, normal = bits(found.zero, block.ram.pages), bits(found.normal, block.ram.pages)
        decided = zero | normal
        assert not (decided & ~wanted).any(), "pages that nobody asked for"
        assert np.array_equal(zero, known.zero & decided), "zero"
        assert np.array_equal(normal, ~known.zero & decided), "normal"
        if not decided[wanted].all():
            assert self._run.killed >= 2, notes
            assert notes
        self._run.answers += 1

    def _direct(self) -> None:
        """Pages of one by a channel of our own."""
        block, known = self._dice.choice(self._known)
        if self._channel is None:
            slots, pages = self._dice.choice([1, 4, 16]), self._dice.choice([1, 128, 500])
            self._channel = self._client.open_channel(slots=slots, slot_pages=pages)
        draw = np.random.default_rng(self._dice.randrange(1 << 30))
        pages = draw.integers(0, block.ram.pages, self._dice.choice([0, 1, 128, 129, 700]))
        offsets = pages.astype(np.uint64) * np.uint64(block.ram.page_size)
        answer = self._channel.check(block, offsets)
        assert np.array_equal(answer.zero, known.zero[pages] & answer.decided), "zero, direct"
        assert answer.decided.all() or answer.notes
        self._run.answers += 1

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _stats(self) -> None:
        assert self._client.stats()
        assert len(self._client.blocks()) == len(self._known)


def _only(place: Place) -> Choice:
    """Worlds of that place alone."""
    return Choice([place._replace(diffs=False, saves=False)], ["portable"], [])
