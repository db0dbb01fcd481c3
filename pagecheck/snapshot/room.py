"""Whether a snapshot fits where it is going to be, asked before anything is stopped.

Facts: a file system says what is free, not what a quota or a reservation leaves; some say nothing.
Left unhandled: what others write there meanwhile; a save that meets a full disk fails, and the VM
runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from pagecheck.errors import OutputError
from pagecheck.snapshot.values import CHUNK_BYTES, DIGEST_BYTES, bitmap_bytes

if TYPE_CHECKING:
    from pagecheck.model import RamBlock

STATE_BYTES: Final = 32 << 20  # the devices' state and small RAM blocks, such as a VGA's
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
