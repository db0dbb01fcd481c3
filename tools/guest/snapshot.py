"""Copies guest RAM to a file without changing either's holes.

Reading a hole of shared memory through a mapping allocates it, so the copy walks the extents
with SEEK_DATA and reads them with pread; a hole of the source is a hole of the copy.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

_COPY_BYTES = 1 << 20


def copy_sparse(source: Path, target: Path) -> int:
    """Copies a file, holes included. The source must not change (a paused guest).

    Args:
        source: The RAM file; opened for reading only.
        target: The file to write; what was in it is lost.

    Returns:
        How many bytes were copied: the size without the holes.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(target_fd, os.fstat(source_fd).st_size)
            return sum(
                _copy_extent(source_fd, target_fd, start, end)
                for start, end in data_extents(source_fd)
            )
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def data_extents(fd: int) -> Iterator[tuple[int, int]]:
    """Walks the parts of a file that are not holes.

    Args:
        fd: An open file; its position moves.

    Yields:
        Start and end of each extent, in bytes.
    """
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole, or nothing, is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_extent(source_fd: int, target_fd: int, start: int, end: int) -> int:
    offset = start
    while offset < end:
        chunk = os.pread(source_fd, min(_COPY_BYTES, end - offset), offset)
        if not chunk:
            raise OSError(errno.EIO, f"source ended at {offset:#x} within an extent to {end:#x}")
        offset += os.pwrite(target_fd, chunk, offset)
    return end - start
