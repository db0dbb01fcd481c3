"""RAM laid out in a file of hugetlbfs, which can be written through a mapping only.

Danger: a touched page that the pool cannot give ends the process by SIGBUS. Decision: pages are
allocated first, by fallocate(2), which says so instead; and only where the snapshot has data.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from pagecheck.native import _native
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import DISK, TMPFS
from pagecheck.snapshot.pace import Pace, wait_until
from pagecheck.snapshot.ram_layout import LaidOut

if TYPE_CHECKING:
    from pagecheck.snapshot.checksums import Progress
    from pagecheck.snapshot.ram_target import RamTarget
    from pagecheck.snapshot.values import SnapshotBlock


def lay_out_huge(
    block: SnapshotBlock,
    fd: int,
    target: RamTarget,
    *,
    page_size: int,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> LaidOut:
    """Makes a file of hugetlbfs hold what a RAM file holds.

    Args:
        block: whose RAM it is.
        fd: of the RAM file.
        target: of the same size.
        page_size: bytes of the snapshot's pages.
        max_rate: bytes per second that may be read.
        progress: called with (bytes done, bytes in total) for each huge page.

    Raises:
        OutputError: the pool has no huge page left.
    """
    huge = target.huge_page
    written = cleared = 0
    pace = Pace(max_rate)
    for at in range(0, target.size, huge):
        size = min(huge, target.size - at)
        may_ns = pace.take(size)
        while not wait_until(may_ns):
            if progress is not None:
                progress(at, target.size)
        content = _content(fd, at, size)
        if content is not None and content.count(0) != size:
            written += _write(target, at, content)
        elif not target.is_new and not _is_zero(target, at, size):
            target.punch(at, huge)
            cleared += size
        if progress is not None:
            progress(at + size, target.size)
    return LaidOut(
        name=block.name,
        path=target.path,
        size=target.size,
        zero=block.zero,
        normal=block.normal,
        written=written // page_size,
        cleared=cleared // page_size,
        allocated=target.allocated,
        is_new=target.is_new,
    )


def _content(fd: int, at: int, size: int) -> bytes | None:
    """That part of the RAM file; None where it is a hole."""
    magic = _native.file_system_magic(fd)
    if (magic == TMPFS or magic in DISK) and next(by_seeking(fd, at, at + size), None) is None:
        return None
    return _read(fd, at, size)


def _read(fd: int, at: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(fd, size, at)):
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)


def _is_zero(target: RamTarget, at: int, size: int) -> bool:
    return _read(target.fd, at, size).count(0) == size


def _write(target: RamTarget, at: int, content: bytes) -> int:
    """Writes what differs; returns how many bytes."""
    if not target.is_new and _read(target.fd, at, len(content)) == content:
        return 0
    try:
        os.posix_fallocate(target.fd, at, len(content))
        with mmap.mmap(target.fd, len(content), offset=at) as mapped:
            mapped[:] = content
    except OSError as error:
        raise target.refusal(error) from error
    return len(content)
