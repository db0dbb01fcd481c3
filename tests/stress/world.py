"""A random world: a RAM file, a coordinator, and what happens to them. A seed makes one world."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.oracle import zero_pages

UNIT = 4096
BYTES_MAX = 12 << 20
DEATHS_MAX = 4  # a channel that loses five workers without an answer is given up

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """What a seed decides.

    Attributes:
        file_system: `tmpfs`, `memfd` or `disk`.
        start: byte offset of the block in its file.
        hole_share, zero_share: of the pages; the rest is normal.
        part_holes: pages of more than 4 KiB may be part hole.
        kills: SIGKILLs that the checking threads send to random workers.
    """

    seed: int
    file_system: str
    page_size: int
    pages: int
    start: int
    hole_share: float
    zero_share: float
    part_holes: bool
    kind: str
    holes: str
    access: str
    channels: int
    batch_pages: int | None
    threads: int
    checks: int
    kills: int

    @classmethod
    def from_seed(cls, seed: int) -> "World":
        dice = random.Random(seed)
        page_size = dice.choice([4096, 4096, 4096, 8192, 16384, 65536, 1 << 20, 2 << 20])
        diff = dice.random() < 0.25
        hole_share = dice.choice([0.0, 0.05, 0.5, 0.95, 1.0])
        return cls(
            seed=seed,
            file_system=dice.choice(["tmpfs", "memfd", "disk"]),
            page_size=page_size,
            pages=dice.randint(1, BYTES_MAX // page_size),
            start=page_size * dice.choice([0, 0, 1, 3]),
            hole_share=hole_share,
            zero_share=dice.choice([0.0, 0.1, 0.5, 0.9, 1.0]),
            part_holes=not diff and dice.random() < 0.5,
            kind="diff" if diff else "full",
            holes="read" if not diff and dice.random() < 0.2 else "trust",
            access=dice.choice(["auto", "map", "read"]),
            channels=dice.randint(1, 4),
            batch_pages=dice.choice([None, 1, 7, 64, 65, 128, 1000, 32768]),
            threads=dice.randint(0, 4),
            checks=dice.randint(1, 12),
            kills=dice.choice([0, 0, 0, 1, 2, DEATHS_MAX]),
        )

    def write(self, fd: int) -> None:
        """Fills the file; what lies before and behind the block is not zero."""
        dice = random.Random(self.seed + 1)
        end = self.start + self.pages * self.page_size
        os.ftruncate(fd, end + 2 * self.page_size)
        if self.start:
            os.pwrite(fd, b"\xff" * UNIT, self.start - UNIT)
        os.pwrite(fd, b"\xff" * UNIT, end)
        for index in range(self.pages):
            self._write_page(fd, self.start + index * self.page_size, dice)
        os.fsync(fd)

    def _write_page(self, fd: int, offset: int, dice: random.Random) -> None:
        if dice.random() < self.hole_share:
            return
        begin, size = 0, self.page_size
        if self.part_holes and self.page_size > UNIT and dice.random() < 0.5:
            begin = UNIT * dice.randrange(self.page_size // UNIT)
            size = UNIT
        content = bytearray(size)
        if dice.random() >= self.zero_share:
            place = dice.choice([0, size // 2, size - 1, dice.randrange(size)])
            content[place] = dice.randint(1, 255)
        os.pwrite(fd, content, offset + begin)


@dataclass(frozen=True)
class Truth:
    """What numpy and SEEK_DATA say of the block's pages.

    Attributes:
        hole: pages that are holes throughout.
    """

    zero: Bools
    hole: Bools
    blocks: int


def truth(world: World, fd: int) -> Truth:
    """Reads the whole file; the block's pages only are told."""
    zero = zero_pages(fd, world.page_size, world.pages * world.page_size, start=world.start)
    hole = np.ones(world.pages, np.bool_)
    at, end = world.start, world.start + world.pages * world.page_size
    while at < end:
        data = os.lseek(fd, at, os.SEEK_DATA)  # the byte behind the block is data
        at = os.lseek(fd, data, os.SEEK_HOLE)
        first = (data - world.start) // world.page_size
        last = -((world.start - at) // world.page_size)
        hole[max(first, 0) : max(last, 0)] = False
    return Truth(zero, hole, os.fstat(fd).st_blocks)


@contextlib.contextmanager
def ram_file(world: World, folder: Path) -> Iterator[tuple[int, str]]:
    """The world's RAM file: our descriptor, and the source that pagecheck is given."""
    if world.file_system == "memfd":
        fd = os.memfd_create("world")
        try:
            world.write(fd)
            yield fd, f"fd:{fd}"
        finally:
            os.close(fd)
        return
    place = "/dev/shm" if world.file_system == "tmpfs" else folder
    with tempfile.NamedTemporaryFile(prefix="pctest-", dir=place) as file:
        world.write(file.fileno())
        shm = f"shm:/{os.path.basename(file.name)}"
        by_name = world.file_system == "tmpfs" and world.seed % 2
        yield file.fileno(), shm if by_name else file.name
