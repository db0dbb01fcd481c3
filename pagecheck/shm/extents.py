"""A file's data and holes, as the file system reports them in one of two ways.

Facts: SEEK_DATA is answered from the page cache where an extent is reserved but not written: on
ext4 and xfs such an extent is a hole until it is read. Both answers read as zeros, so that
is harmless where a hole means zero, and wrong where it means unchanged. FIEMAP reports what the
file system has on disk, and with FIEMAP_FLAG_SYNC that is up to date.
Decision: SEEK_DATA for full snapshots, which are walked in C, and for tmpfs, which has no FIEMAP;
`by_map` for diffs.

Source: Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h, Linux 6.12.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple

FS_IOC_FIEMAP: Final = 0xC020660B
FLAG_SYNC: Final = 1
LAST: Final = 0x1
UNKNOWN: Final = 0x2  # the location on disk is not known yet
DELALLOC: Final = 0x4  # not allocated yet
INLINE: Final = 0x200  # stored in the inode
UNWRITTEN: Final = 0x800  # reserved, never written
EXTENTS_AT_ONCE: Final = 512

_HEAD: Final = struct.Struct("=QQIIII")
_EXTENT: Final = struct.Struct("=QQQQQI12x")


class Extent(NamedTuple):
    """One extent of a file, clipped to the requested range.

    Attributes:
        begin, end: byte offsets in the file.
        flags: UNWRITTEN and others, as the file system reports them.
    """

    begin: int
    end: int
    flags: int


def by_seeking(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Data between two byte offsets by SEEK_DATA, looked up as the iteration goes.

    Args:
        fd: its file offset is moved.

    Yields:
        (begin, end) of each stretch of data, in order; between them are holes.

    Raises:
        OSError: a lookup failed.
    """
    at = start
    while at < end:
        data = _seek(fd, at, os.SEEK_DATA)
        hole = end if data is None else _seek(fd, data, os.SEEK_HOLE)
        if data is None or data >= end or hole is None:  # hole: truncated between the two calls
            return
        yield data, min(hole, end)
        at = hole


def _seek(fd: int, at: int, whence: int) -> int | None:
    """The next data or hole from `at`; None at or past the end of the file."""
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def by_map(fd: int, start: int, end: int) -> Iterator[Extent]:
    """Extents between two byte offsets by FIEMAP, after dirty pages were written back; looked up
    as the iteration goes. Between them are holes.

    Raises:
        OSError: a lookup failed, or the file system's answer was invalid.
    """
    at = start
    while at < end:
        request = bytearray(_HEAD.size + EXTENTS_AT_ONCE * _EXTENT.size)
        _HEAD.pack_into(request, 0, at, end - at, FLAG_SYNC, 0, EXTENTS_AT_ONCE, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, request, True)
        count = min(_HEAD.unpack_from(request)[3], EXTENTS_AT_ONCE)
        before, logical, flags = at, end, 0
        for index in range(count):
            place = _HEAD.size + index * _EXTENT.size
            logical, _disk, length, _r0, _r1, flags = _EXTENT.unpack_from(request, place)
            # A file that is being written may be reported in extents that overlap.
            begin, stop = max(logical, at), min(logical + length, end)
            if begin < stop:
                yield Extent(begin, stop, flags)
                at = stop
        if flags & LAST or logical >= end:
            return
        if at == before:
            raise OSError(errno.EIO, "FIEMAP makes no progress")


def written(extents: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    """The data among mapped extents, adjacent ones merged: where two extents meet there is no hole,
    even inside a page."""
    begin = end = -1
    for extent in extents:
        if extent.flags & UNWRITTEN:
            continue
        if extent.begin != end:
            if begin != end:
                yield begin, end
            begin = extent.begin
        end = extent.end
    if begin != end:
        yield begin, end
