"""Whether a command continues a snapshot: compared with its manifest before anything takes long."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from pagecheck.snapshot import manifest
from pagecheck.snapshot.comparing import require_same_machine
from pagecheck.snapshot.comparing_disks import require_same_disks
from pagecheck.snapshot.machine_types import TypesQuery
from pagecheck.snapshot.qemu_command import require_startable


def types_query(command: Sequence[str]) -> TypesQuery:
    """Begins to ask a command's QEMU for its machine types.

    Raises:
        UsageError: the command does not start a QEMU.
        EngineError: it cannot be run.
    """
    require_startable(command)
    return TypesQuery(command[0])


def require_ready(
    directory: str | os.PathLike[str], command: Sequence[str], query: TypesQuery | None = None
) -> None:
    """Compares a command with a snapshot's manifest.

    Args:
        query: to the command's QEMU, where it was asked ahead.

    Raises:
        UsageError: the command makes another machine, or the snapshot is not of a QEMU's VM.
        SnapshotError: the manifest cannot be read.
        EngineError, PeerError: the command's QEMU cannot be run.
    """
    with contextlib.ExitStack() as stack:
        asked = query or stack.enter_context(types_query(command))
        snapshot = manifest.read(directory)
        require_same_machine(snapshot, command, asked.types())
        require_same_disks(snapshot, command)
