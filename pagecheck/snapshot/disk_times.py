"""Disks of a command that are not what they were when the snapshot was made.

Danger: a save that was killed at its very end leaves a snapshot and a VM that runs on, and a disk
that a first restore has written fits no second one. Decision: a disk of the command that the
manifest names must not have been written since. Left unhandled: copies, other names, and devices,
whose time of writing says nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.values import Snapshot

_BETWEEN: Final = re.compile(r'[,="]')


def require_unwritten(snapshot: Snapshot, words: Sequence[str]) -> None:
    """Compares the disks that a command names with those of the snapshot.

    Args:
        words: the user's command.

    Raises:
        UsageError: one was written since.
    """
    named = {os.path.abspath(part) for word in words for part in _BETWEEN.split(word) if part}
    for disk in snapshot.disks:
        if disk.overlay is not None and disk.overlay in named:
            raise UsageError(
                f"the command after --: {printable(disk.overlay)} is what the VM wrote after the "
                f"snapshot was made; give an overlay of its own above {printable(str(disk.path))}"
            )
        written = disk.other.get("written_ns")
        if disk.kept == "none" or disk.path not in named or type(written) is not int:
            continue
        try:
            now = os.stat(disk.path).st_mtime_ns
        except OSError:
            continue  # QEMU will say so
        if now != written:
            raise UsageError(
                f"the command after --: disk {printable(disk.path)} was written after the snapshot "
                "was made, and the RAM does not fit it any more; give a copy of that moment"
            )
