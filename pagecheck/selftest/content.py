"""What the pages of a world hold, and what numpy and the file system say of them.

Nothing here maps the file: reading a hole of shared memory through a mapping allocates the hole.
"""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pagecheck.selftest.places import UNIT
from pagecheck.selftest.world import World

if TYPE_CHECKING:
    import numpy.typing as npt

    from pagecheck.selftest.places import Ram

    Bools = npt.NDArray[np.bool_]

_CHUNK_BYTES: Final = 4 << 20


def write(world: World, ram: Ram) -> None:
    """Fills the file; what lies before and behind the block is not zero."""
    dice = random.Random(world.seed + 1)
    end = world.start + world.bytes
    os.ftruncate(ram.fd, end + world.tail)
    if world.start:
        ram.write(b"\xff" * UNIT, world.start - UNIT)
    if world.tail:
        ram.write(b"\xff" * min(world.tail, UNIT), end)
    page = 0
    while page < world.pages:
        count = min(dice.randint(1, world.run), world.pages - page)
        _write_run(world, ram, page, count, dice)
        page += count
    os.fsync(ram.fd)


def _write_run(world: World, ram: Ram, first: int, count: int, dice: random.Random) -> None:
    """Pages of one kind: holes, written zeros, or pages with one byte that is not zero."""
    is_hole = dice.random() < world.hole_share
    is_zero = dice.random() < world.zero_share
    for page in range(first, first + count):
        begin, size = 0, world.page_size
        if world.part_holes and size > UNIT and dice.random() < 0.5:
            begin = UNIT * dice.randrange(size // UNIT)
            size = UNIT
        content = bytearray(size)
        place = dice.choice([0, size // 2, size - 1, dice.randrange(size)])
        value = dice.randint(1, 255)
        if is_hole:
            continue
        if not is_zero:
            content[place] = value
        ram.write(content, world.start + page * world.page_size + begin)


class Truth(NamedTuple):
    """What is known of the block's pages without pagecheck.

    Attributes:
        zero: bool[pages]: every byte is zero, by numpy.
        hole: bool[pages]: nothing of it was ever written, by SEEK_DATA.
        blocks: that the whole file has allocated.
    """

    zero: Bools
    hole: Bools
    blocks: int


def truth(world: World, fd: int) -> Truth:
    """Reads all of the block."""
    return Truth(_zero(world, fd), _holes(world, fd), os.fstat(fd).st_blocks)


def _zero(world: World, fd: int) -> Bools:
    zero = np.empty(world.pages, np.bool_)
    step = max(1, _CHUNK_BYTES // world.page_size)
    for first in range(0, world.pages, step):
        count = min(step, world.pages - first)
        content = _read(fd, world.start + first * world.page_size, count * world.page_size)
        words = np.frombuffer(content, np.uint64).reshape(count, -1)
        zero[first : first + count] = ~words.any(axis=1)
    return zero


def _holes(world: World, fd: int) -> Bools:
    hole = np.ones(world.pages, np.bool_)
    at, end = world.start, world.start + world.bytes
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
        first = (data - world.start) // world.page_size
        last = -((world.start - at) // world.page_size)
        hole[max(first, 0) : max(last, 0)] = False
    return hole


def _read(fd: int, offset: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.pread(fd, size - len(parts), offset + len(parts))
        if not part:
            raise EOFError(f"the file ends at {offset + len(parts):#x}")
        parts += part
    return bytes(parts)
