"""Which parts of a diff snapshot's file are data: only from a source whose answer is exact.

Facts: a hole of a diff is an unchanged page, so data that was never written is a wrong answer,
even if it reads as zeros. Its causes: an allocation unit larger than the page, huge pages on tmpfs,
tmpfs pages that were reserved and then swapped out, and ext4, which under some mount options writes
zeros around a page that is written into reserved space.
Decision: FIEMAP where it is supported, SEEK_DATA on tmpfs; where one of these cannot be ruled out,
the diff is refused. What an earlier setting or a copy left behind leaves no trace: docs/usage.md.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterator
from typing import Final

from pagecheck.errors import SourceError, UsageError
from pagecheck.shm import extents, huge_folios, mounts
from pagecheck.shm.ram import DISK, TMPFS, RamSource

EXT4: Final = 0xEF53
XFS: Final = 0x58465342

_XFS_GEOMETRY_V1: Final = 0x80705864  # Source: xfs_fs.h; block size and extent size come first
_GET_XATTR: Final = 0x801C581F  # FS_IOC_FSGETXATTR
_REALTIME: Final = 1  # FS_XFLAG_REALTIME
SWAPS: Final = "/proc/swaps"


def require_exact(source: RamSource, page_size: int) -> None:
    """Raises where it cannot be determined which pages of this file a diff left unchanged.

    Raises:
        UsageError: the file system's allocation unit is larger than the page.
        SourceError: the file system does not report holes exactly.
    """
    if source.magic != TMPFS and source.magic not in DISK:
        raise UsageError(
            f"{source.text}: a diff snapshot keeps its unchanged pages as holes, and this file "
            "system does not report holes; scan it on ext4, xfs, btrfs or tmpfs"
        )
    if not source.holes_are_proof:
        raise UsageError(
            f"{source.text}: the holes of a shared open file description cannot be looked up; give "
            "the file's path, or open the descriptor for reading as its owner"
        )
    unit = _allocation_unit(source)
    if page_size % unit:
        fits = "no page size fits" if unit & (unit - 1) else f"use --page-size {unit >> 10}K"
        raise UsageError(
            f"{source.text}: this file system allocates blocks of {unit} bytes, so that one page "
            f"of {page_size} bytes that was written makes a whole block data; {fits}"
        )
    try:
        if source.magic == TMPFS:
            _require_exact_tmpfs(source)
        elif source.magic == EXT4:
            _require_exact_ext4(source)
    except OSError as error:
        raise _failed(source, error) from error


def data(source: RamSource, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Data of a diff's file between two byte offsets, looked up as the iteration goes.

    Yields:
        (begin, end) of each stretch of data, in order; between them are holes.

    Raises:
        SourceError: a lookup failed.
    """
    try:
        if source.magic == TMPFS:
            yield from extents.by_seeking(source.fd, start, end)
        else:
            yield from extents.written(extents.by_map(source.fd, start, end))
    except OSError as error:
        raise _failed(source, error) from error


def unallocated_data(source: RamSource, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Data without blocks on disk yet, although dirty pages were written back: it was written at
    this moment, or the file system preallocates ahead of a writer. Raises as `data`.
    """
    if source.magic == TMPFS:
        return
    try:
        for extent in extents.by_map(source.fd, start, end):
            if extent.flags & (extents.DELALLOC | extents.UNKNOWN):
                yield extent.begin, extent.end
    except OSError as error:
        raise _failed(source, error) from error


def is_inline(source: RamSource) -> bool:
    """Whether the file's first bytes are stored in its inode, not in a block of their own."""
    if source.magic not in DISK:
        return False
    first = next(extents.by_map(source.fd, 0, 4096), None)
    return first is not None and bool(first.flags & extents.INLINE)


def _failed(source: RamSource, error: OSError) -> SourceError:
    return SourceError(f"{source.text}: cannot look for holes: {error.strerror}")


def _allocation_unit(source: RamSource) -> int:
    """The file system's allocation unit in bytes. Not st_blksize, which is a hint."""
    block = os.fstatvfs(source.fd).f_bsize
    if source.magic != XFS:
        return block
    try:
        raw = fcntl.ioctl(source.fd, _GET_XATTR, bytes(28))
        if not struct.unpack_from("=I", raw)[0] & _REALTIME:
            return block
        raw = fcntl.ioctl(source.fd, _XFS_GEOMETRY_V1, bytes(112))
    except OSError as error:
        raise SourceError(
            f"{source.text}: cannot get the block size from xfs: {error.strerror}"
        ) from error
    block_size, extent_blocks = struct.unpack_from("=II", raw)
    return int(block_size) * int(extent_blocks)


def _require_exact_tmpfs(source: RamSource) -> None:
    why = huge_folios.why_possible(source.fd)
    if why is not None:
        raise SourceError(
            f"{source.text}: one page that is written may make a huge page of data, of which the "
            f"rest is unchanged: {why}; make the diff on ext4, xfs, btrfs, or on a tmpfs mounted "
            "with huge=never"
        )
    if not _swap_is_used():
        return
    st = os.fstat(source.fd)
    data_bytes = sum(end - begin for begin, end in extents.by_seeking(source.fd, 0, st.st_size))
    if st.st_blocks * 512 > -(-data_bytes // 4096) * 4096:
        raise SourceError(
            f"{source.text}: has reserved pages that were never written (fallocate), and once "
            "swapped out such a page looks like one that was written; make the diff "
            "without reserving, or on ext4, xfs or btrfs"
        )


def _swap_is_used(path: str = SWAPS) -> bool:
    """Whether pages may be swapped out: the list has more than its header line."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return len(file.read().splitlines()) > 1
    except FileNotFoundError:
        return False  # the kernel was built without swap
    except OSError:
        return True


def _require_exact_ext4(source: RamSource) -> None:
    """Refuses reserved space where ext4 writes zeros around a page that is written.

    Source: ext4_ext_convert_to_initialized() and EXT4_EXT_ZERO_LEN in fs/ext4/extents.c.
    """
    why = _why_zeroing(mounts.of_device(os.fstat(source.fd).st_dev), os.uname().release)
    if why is None:
        return
    for extent in extents.by_map(source.fd, 0, source.size):
        if extent.flags & extents.UNWRITTEN:
            raise SourceError(
                f"{source.text}: has reserved space that was never written (fallocate), and {why}, "
                "so that ext4 writes zeros around a page that is written; make the diff without "
                "reserving, or on an ext4 with the default mount options"
            )


def _why_zeroing(mount: mounts.Mount | None, release: str) -> str | None:
    """Why ext4 may write zeros of its own, None where it does not."""
    if mount is None:
        return "its file system is not mounted here, so its options are not known"
    for option in ("nodioread_nolock", "nodelalloc", "data"):
        value = mount.option(option)
        if value is not None and (option != "data" or value == "journal"):
            return f"its file system is mounted with {option}{value and '=' + value}"
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if version < (5, 6) and mount.option("dioread_nolock") is None:
        return "its file system is mounted without dioread_nolock"
    return None
