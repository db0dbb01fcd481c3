"""What a coordinator gives back at its end, also when the program forgot to close it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.pool import Pool
    from pagecheck.shm.bitmaps import BlockBitmaps
    from pagecheck.shm.owner import Owner


def give_back(
    creator: int,
    stop: threading.Event,
    pools: list[Pool],
    bitmaps: dict[int, BlockBitmaps],
    blocks: dict[int, Block],
    owner: Owner,
) -> None:
    """Gives everything back; in a forked child nothing is this process's to end."""
    if os.getpid() != creator:
        return
    stop.set()
    steps: list[Callable[[], None]] = [pool.close for pool in pools]
    steps += [each.remove for each in list(bitmaps.values())]
    steps += [block.detach for block in list(blocks.values())]
    first: BaseException | None = None
    for step in (*steps, owner.close):
        try:
            step()
        except BaseException as error:  # an interrupt in one step must not skip the others
            first = first or error
            with contextlib.suppress(BaseException):
                step()
    if first is not None:
        raise first
