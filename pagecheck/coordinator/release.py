"""The end of a coordinator: every worker ends and every name goes, whatever fails on the way."""

from __future__ import annotations

import contextlib
import os
import threading

from pagecheck.coordinator.block import Blocks
from pagecheck.coordinator.pool import Pool
from pagecheck.shm.owner import Owner


def release_all(
    creator: int, stop: threading.Event, pools: list[Pool], blocks: Blocks, owner: Owner
) -> None:
    """Ends the workers and removes every name, also where the program forgot to close its
    coordinator; in a forked child nothing is this process's to end."""
    if os.getpid() != creator:
        return
    stop.set()
    steps = [*(pool.close for pool in pools), *blocks.releases(), owner.close]
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:  # an interrupt in one step must not skip the others
            first = first or error
            with contextlib.suppress(BaseException):
                step()
    if first is not None:
        raise first
