"""Whether a snapshot fits where it is going to be, asked before anything is stopped.

Facts: a file system says what is free, not what a quota or a reservation leaves; some say nothing.
Left unhandled: what others write there meanwhile; a save that meets a full disk fails, and the VM
runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from pagecheck.errors import OutputError
from pagecheck.snapshot.values import CHUNK_BYTES, DIGEST_BYTES, bitmap_bytes

if TYPE_CHECKING:
    from pagecheck.model import RamBlock

STATE_BYTES: Final = 32 << 20  # beside RAM, where it is not known what the VM has
DEVICES_BYTES: Final = 16 << 20  # of the devices' state, which has no RAM block in it
_MEMORY: Final = "/proc/meminfo"
_OWN_GROUP: Final = "/proc/self/cgroup"
_GROUPS: Final = "/sys/fs/cgroup"
_MANIFEST_BYTES: Final = 64 << 10


def beside_ram(blocks: Iterable[RamBlock]) -> int:
    """Bytes of what goes with the blocks' RAM files: bitmaps, digests, the manifest."""
    per_block = (
        bitmap_bytes(block.pages) + -(-block.size // CHUNK_BYTES) * DIGEST_BYTES for block in blocks
    )
    return _MANIFEST_BYTES + sum(per_block)


def require_room(
    where: str,
    folder: int,
    blocks: Sequence[RamBlock],
    state_bytes: int,
    normal_bytes: Callable[[], int],
) -> None:
    """Refuses a snapshot that does not fit.

    Args:
        where: the snapshot, as messages name it.
        folder: descriptor of a folder on its file system.
        state_bytes: what the devices' state may take.
        normal_bytes: looks how much of the RAM is not zero now; called only where the answer
            depends on it.

    Raises:
        OutputError: there is not enough room.
    """
    free, beside = free_bytes(folder), beside_ram(blocks) + state_bytes
    if free is None or free >= sum(block.size for block in blocks) + beside:
        return
    needed = normal_bytes() + beside
    if free < needed:
        raise OutputError(
            f"{where}: the snapshot takes about {-(-needed >> 20)} MiB, and its file system has "
            f"{free >> 20} MiB left; nothing was stopped or written: make room, or save elsewhere"
        )


def free_bytes(folder: int) -> int | None:
    """What this user may still write there; None where the file system does not say."""
    room = os.fstatvfs(folder)
    return room.f_bavail * room.f_frsize if room.f_blocks else None


def fits_in_memory(sizes: Iterable[int]) -> bool:
    """Whether files of these sizes can stay in the page cache; False where that is not known."""
    try:
        return sum(sizes) <= min(_available_bytes(), _bytes_of_group())
    except (OSError, ValueError, StopIteration):
        return False


def _available_bytes() -> int:
    with open(_MEMORY) as lines:
        words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
    return int(words[1]) << 10


def _bytes_of_group() -> int:
    """What the control groups that we are in leave (version 2); those that set no limit leave
    all."""
    with open(_OWN_GROUP) as lines:
        group = next((line[3:].strip() for line in lines if line.startswith("0::")), "/")
    left = sys.maxsize
    while group != "/":
        folder = f"{_GROUPS}{group}"
        with contextlib.suppress(FileNotFoundError):  # of the root, and without the controller
            limit = _text(f"{folder}/memory.max")
            if limit != "max":
                left = min(left, int(limit) - int(_text(f"{folder}/memory.current")))
        group = os.path.dirname(group)
    return left


def _text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
