"""Files that a client hands over to be written: what they must be, before anything is stopped.

Facts: a request to a file of FUSE or of a network, fstat too, may never be answered; where an open
file is mounted the kernel alone says (fdinfo), and what that is, the mount table of a namespace. A
user can mount FUSE, tmpfs and overlays of them in a user namespace, and no file system of a disk.
Memory of tmpfs is charged to who writes it.
Danger: a service that waits for ever, writes elsewhere than at a page's place, or pays for a
client's memory. Decision: of another user only files of a disk are taken, or of what the service
itself has mounted; nothing is asked of a file before that is known.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import Final

from pagecheck.coordinator.sink import require_regular, require_writable
from pagecheck.errors import UsageError
from pagecheck.shm import mounts

_MEMORY: Final = frozenset({"devtmpfs", "hugetlbfs", "ramfs", "rootfs", "tmpfs"})
_OF_A_DISK: Final = mounts.NEVER_STALL - _MEMORY - {"overlay"}


def require_files(fds: Sequence[int], sizes: Sequence[int], process: int, *, trusted: bool) -> None:
    """Checks what a client handed over to be written.

    Args:
        sizes: bytes that each file must have.
        process: the client, as /proc calls it; 0 where nothing is known of it.
        trusted: the client has the service's own rights, over memory too.

    Raises:
        UsageError: one cannot be written to; the text says which, and why.
    """
    seen: dict[tuple[int, int], int] = {}
    for number, (fd, size) in enumerate(zip(fds, sizes, strict=True)):
        name = f"file {number}"
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        require_writable(name, flags)
        if flags & os.O_DIRECT:
            raise UsageError(f"{name}: is open with O_DIRECT; open it without")
        _require_mount(name, fd, process, trusted=trusted)
        found = os.fstat(fd)
        require_regular(name, found.st_mode)
        if found.st_size != size:
            raise UsageError(f"{name}: has {found.st_size} bytes, and its block has {size}")
        other = seen.setdefault((found.st_dev, found.st_ino), number)
        if other != number:
            raise UsageError(f"{name}: is the same file as file {other}")


def _require_mount(name: str, fd: int, process: int, *, trusted: bool) -> None:
    number = _mount_number(fd)
    ours = _kind(mounts.MOUNTINFO, number)
    kind = ours or _kind(f"/proc/{process}/mountinfo", number)
    if trusted and kind in mounts.NEVER_STALL:
        return
    if kind in _OF_A_DISK or (kind == "overlay" and ours):
        return
    if kind is None:
        raise UsageError(
            f"{name}: is on no mount of the service or of the client; give a file of a disk"
        )
    why = "whose memory the service would pay for" if kind in _MEMORY else "which may never answer"
    raise UsageError(f"{name}: is on {kind}, {why}; give a file of a disk")


def _mount_number(fd: int) -> int:
    """Of the mount that a descriptor was opened on. Source: proc(5), /proc/PID/fdinfo."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["mnt_id"])


def _kind(table: str, number: int) -> str | None:
    return next((each.kind for each in mounts.read(table) if each.number == number), None)
