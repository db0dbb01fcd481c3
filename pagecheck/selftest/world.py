"""A world: a RAM file or a process with private memory, a coordinator, and what happens to them.

A seed makes one world. Written as a line, a world has only what is not as simple as it can be; the
same line makes the same world again, and the defaults are what a failing world is reduced to.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pagecheck.errors import UsageError
from pagecheck.selftest.places import UNIT, Place

BYTES_MAX: Final = 12 << 20
LARGE_BYTES: Final = 64 << 20  # one world in thirty
DEATHS_MAX: Final = 4  # a channel that loses five workers without an answer is abandoned
_PAGE_SIZES: Final = (4096, 4096, 4096, 8192, 16384, 65536, 1 << 20, 2 << 20)
_BATCHES: Final = (0, 1, 7, 64, 65, 128, 1000, 32768)
_TAILS: Final = (0, 1, 4095, 4096, 12288)
_RUNS: Final = (1, 1, 2, 63, 64, 500)
_LEAST: Final = {"page_size": UNIT, "pages": 1, "run": 1}  # of other numbers it is 0


class World(NamedTuple):
    """What a seed decides.

    Attributes:
        seed: of the pages' content and of what the threads do.
        place: name of the place where the RAM lies; see `places.py`.
        source: how pagecheck is told of it: "fd", "path", "shm" or "pid".
        start: byte offset of the block in its file.
        tail: bytes of the file behind the block.
        hole_share, zero_share: of the pages, and of those with data; the rest is normal.
        run: pages in a row that are of one kind, at most.
        part_holes: pages of more than 4 KiB may be part hole.
        kind, holes, access: as `Coordinator.scan` and `Coordinator.attach` have them.
        engine, wq, kernel: as `Coordinator` has them; "" is the default.
        batch_pages: likewise; 0 is the default.
        threads: that check pages beside the scanning one.
        checks: that each thread makes.
        kills: SIGKILLs that the checking threads send to random workers.
        saves: it is saved, verified and restored too.
    """

    seed: int = 0
    place: str = "memfd"
    source: str = "fd"
    page_size: int = UNIT
    pages: int = 1
    start: int = 0
    tail: int = 0
    hole_share: float = 0.0
    zero_share: float = 0.5
    run: int = 1
    part_holes: bool = False
    kind: str = "full"
    holes: str = "trust"
    access: str = "auto"
    engine: str = "cpu"
    wq: str = ""
    kernel: str = ""
    channels: int = 1
    batch_pages: int = 0
    threads: int = 0
    checks: int = 1
    kills: int = 0
    saves: bool = False

    @property
    def bytes(self) -> int:
        """Of the block."""
        return self.pages * self.page_size

    def line(self) -> str:
        """The world as text, from which `parse` makes it again."""
        simplest = World()
        return " ".join(
            f"{name}={shlex.quote(_text(value))}"
            for name, value in self._asdict().items()
            if value != getattr(simplest, name)
        )


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def parse(line: str) -> World:
    """The world that this line describes.

    Raises:
        UsageError: a word is not NAME=VALUE of a world, or no file can have these pages.
    """
    made = World()
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"world {line!r}: {error}") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in World._fields:
            known = ", ".join(World._fields)
            raise UsageError(f"world {line!r}: {word!r} is not NAME=VALUE with a name of {known}")
        kind = type(getattr(made, name))
        try:
            read: Any = bool(int(value)) if kind is bool else kind(value)
        except ValueError as error:
            raise UsageError(f"world {line!r}: {word!r} is not a number") from error
        if not isinstance(read, str) and not read >= _LEAST.get(name, 0):
            raise UsageError(f"world {line!r}: {word!r} must be at least {_LEAST.get(name, 0)}")
        made = made._replace(**{name: read})
    if made.page_size & (made.page_size - 1) or made.start % UNIT:
        raise UsageError(
            f"world {line!r}: page_size must be a power of two, and start a multiple of {UNIT}"
        )
    return made


class Choice(NamedTuple):
    """What worlds are made of here.

    Attributes:
        places: where RAM can lie; at least one.
        kernels: names of the CPU kernels that run here.
        queues: work queues for --wq; `model:` ones are software devices.
    """

    places: Sequence[Place]
    kernels: Sequence[str]
    queues: Sequence[str]


def make(seed: int, choice: Choice, number: int | None = None) -> World:
    """The world of a seed.

    Args:
        number: of worlds before it; their places, kernels and queues are taken in turn, so that a
            few worlds have them all. None: they are drawn.
    """
    dice = random.Random(seed)
    turn = dice.randrange(1 << 20) if number is None else number
    place = choice.places[turn % len(choice.places)]
    page_size = dice.choice([size for size in _PAGE_SIZES if size >= place.page_size])
    most = LARGE_BYTES if dice.random() < 1 / 30 else BYTES_MAX
    world = World(
        seed=seed,
        place=place.name,
        source=dice.choice(place.sources),
        page_size=page_size,
        pages=dice.randint(1, min(most, place.bytes_max) // page_size),
        start=0 if place.is_private else page_size * dice.choice([0, 0, 1, 3]),
        tail=0 if place.page_size > UNIT or place.is_private else dice.choice(_TAILS),
        hole_share=dice.choice([0.0, 0.05, 0.5, 0.95, 1.0]),
        zero_share=dice.choice([0.0, 0.1, 0.5, 0.9, 1.0]),
        run=dice.choice(_RUNS),
        channels=dice.randint(1, 4),
        batch_pages=dice.choice(_BATCHES),
        threads=dice.randint(0, 4),
        checks=dice.randint(1, 12),
        kills=dice.choice([0, 0, 0, 1, 2, DEATHS_MAX]),
        access=dice.choice(["auto", "map" if place.maps else "read", "read"]),
        holes="read" if dice.random() < 0.2 else "trust",
    )
    return _with_engine(_with_kind(world, place, dice), choice, dice, turn)


def _with_kind(world: World, place: Place, dice: random.Random) -> World:
    """A diff where the place has such, else a full scan; some are saved too."""
    diff, part_holes, saves = (dice.random() < share for share in (0.25, 0.5, 0.15))
    if place.diffs and diff:
        return world._replace(kind="diff", holes="trust")
    saves = saves and place.saves
    tail = 0 if saves else world.tail  # the whole file is saved, and is whole pages
    return world._replace(part_holes=part_holes, saves=saves, tail=tail)


def _with_engine(world: World, choice: Choice, dice: random.Random, turn: int) -> World:
    share, plan = dice.random(), dice.randrange(1 << 16)
    if choice.queues and share < 0.35:
        queue = choice.queues[turn % len(choice.queues)]
        if not queue.startswith("model:"):  # a queue of the host may be one process's alone
            return world._replace(engine="dsa", wq=queue, channels=1)
        comma = "" if queue.endswith(":") else ","
        return world._replace(engine="dsa", wq=f"{queue}{comma}seed={plan}")
    kernel = choice.kernels[turn // len(choice.places) % len(choice.kernels)]
    return world._replace(kernel=kernel)
