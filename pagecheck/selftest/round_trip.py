"""A world's file saved, verified, restored into a new file, and written over one that exists."""

from __future__ import annotations

import os
import random
import tempfile
from typing import TYPE_CHECKING, Final

from pagecheck.selftest.wrong import require
from pagecheck.snapshot.restore import restore
from pagecheck.snapshot.save import save
from pagecheck.snapshot.verify import verify

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.selftest.world import World

_CHUNK_BYTES: Final = 1 << 20
_SCRIBBLES: Final = 20


def round_trip(world: World, path: str, folder: str, coordinator: Coordinator) -> None:
    """Raises Wrong where a byte of what comes back is another one.

    Args:
        path: the world's file.
        folder: where the snapshot and the restored files are made, and removed.
    """
    with tempfile.TemporaryDirectory(prefix="selftest-", dir=folder) as work:
        directory, back = f"{work}/snapshot", f"{work}/back"
        save(path, directory, page_size=world.page_size, format="raw", coordinator=coordinator)
        verify(directory)
        restore(directory, back, channels=world.channels)
        _require_same_bytes(path, back, "the restored file")
        _scribble(back, world.seed)
        restore(directory, back, onto=True, coordinator=coordinator)
        _require_same_bytes(path, back, "the file that was written over")


def _scribble(path: str, seed: int) -> None:
    """Bytes here and there, as of another guest."""
    dice = random.Random(seed)
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(_SCRIBBLES):
            os.pwrite(file.fileno(), b"\x5a", dice.randrange(size))


def _require_same_bytes(path: str, other: str, what: str) -> None:
    with open(path, "rb", buffering=0) as one, open(other, "rb", buffering=0) as two:
        sizes = [os.fstat(each.fileno()).st_size for each in (one, two)]
        require(sizes[0] == sizes[1], f"{what} has {sizes[1]} bytes, not {sizes[0]}")
        for offset in range(0, sizes[0], _CHUNK_BYTES):
            same = one.read(_CHUNK_BYTES) == two.read(_CHUNK_BYTES)
            require(same, f"{what} differs from the saved one behind {offset:#x}")
