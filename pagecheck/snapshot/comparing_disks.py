"""The disks that a command names, compared with what became of the snapshot's.

Danger: RAM that goes on with a disk of another moment destroys the guest's file systems. Decision:
a file that the VM went on in after the snapshot is refused, and so is one that was kept for it and
was written to since. Disks of other names are the user's matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.command_words import split
from pagecheck.snapshot.separate import OVERLAID
from pagecheck.snapshot.values import Disk, Snapshot


def require_same_disks(snapshot: Snapshot, words: Sequence[str]) -> None:
    """Checks the disks of a command.

    Args:
        words: the user's command, the program first.

    Raises:
        UsageError: one has not the content of the snapshot's moment.
    """
    for path in filter(None, _files(list(words))):
        for disk in snapshot.disks:
            _require_same(disk, path)


def _files(words: list[str]) -> Iterator[str]:
    for each in split(words):
        if each.name in OVERLAID and each.name != "drive":
            yield each.value
        elif each.name == "drive":
            yield each.keys().get("file") or each.block_file()
        elif each.name == "blockdev":
            yield each.block_file()


def _require_same(disk: Disk, path: str) -> None:
    shown = f"disk {printable(disk.device)}: {printable(path)}"
    if disk.overlay and _is_same(path, disk.overlay):
        raise UsageError(
            f"{shown} has what the VM wrote after the snapshot; its content of that moment is in "
            f"{printable(disk.path or 'no file')}"
        )
    written = disk.other.get("written_ns")
    if disk.kept == "none" or not isinstance(written, int) or not _is_same(path, disk.path or ""):
        return
    try:
        now = os.stat(path).st_mtime_ns
    except OSError:
        return  # QEMU will say what is wrong
    if now != written:
        raise UsageError(
            f"{shown} was written to after the snapshot, which its RAM does not know of; give a "
            "copy of that moment, under another name"
        )


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.abspath(path) == os.path.abspath(other or "/")
