"""Independent answers about the pages of a file: numpy over pread, nothing of pagecheck.

Nothing here maps the file: reading a hole of shared memory through a mapping allocates the hole.
"""

import os
from pathlib import Path

import numpy as np

from tests.support.bitmaps import Bools
from tools.guest.snapshot import data_extents

_CHUNK_BYTES = 4 << 20


def zero_pages(
    path_or_fd: str | Path | int, page_size: int, size: int | None = None, *, start: int = 0
) -> Bools:
    """Decides pages of a file by reading all of them.

    Args:
        path_or_fd: The RAM file, or an open fd of it (its position stays).
        page_size: Bytes per page, a power of two up to 4 MiB.
        size: How many bytes, a multiple of the page size; None means up to the end.
        start: The byte where the first page lies.

    Returns:
        One bool per page, shape (size / page_size,): True where every byte is zero.

    Raises:
        ValueError: The size is no multiple of the page size.
        EOFError: The file is shorter than the size.
    """
    if not isinstance(path_or_fd, int):
        fd = os.open(path_or_fd, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return zero_pages(fd, page_size, size, start=start)
        finally:
            os.close(fd)
    whole = os.fstat(path_or_fd).st_size - start if size is None else size
    if whole % page_size or _CHUNK_BYTES % page_size:
        raise ValueError(f"size {whole:#x}: page size {page_size:#x} does not divide it")
    zero = np.empty(whole // page_size, dtype=np.bool_)
    for at in range(0, whole, _CHUNK_BYTES):
        chunk = _read(path_or_fd, start + at, min(_CHUNK_BYTES, whole - at))
        pages = np.frombuffer(chunk, dtype=np.uint64).reshape(-1, page_size // 8)
        first = at // page_size
        zero[first : first + len(pages)] = ~pages.any(axis=1)
    return zero


def hole_pages(path: Path, page_size: int) -> Bools:
    """Tells which pages of a file were never allocated.

    Args:
        path: The RAM file.
        page_size: Bytes per page; the file's size is a multiple of it.

    Returns:
        One bool per page: True where the whole page is a hole.
    """
    with path.open("rb", buffering=0) as file:
        holes = np.ones(os.fstat(file.fileno()).st_size // page_size, dtype=np.bool_)
        for start, end in data_extents(file.fileno()):
            holes[start // page_size : -(-end // page_size)] = False
    return holes


def find_pages(path: Path, wanted: set[bytes]) -> dict[bytes, int]:
    """Looks for pages by their content.

    Args:
        path: The RAM file.
        wanted: Contents that are not all zero, all of one page size.

    Returns:
        The index of each content that was found; the last one if there are several.
    """
    page_size = len(next(iter(wanted)))
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        normal = np.flatnonzero(~zero_pages(fd, page_size)).tolist()
        pages = ((os.pread(fd, page_size, index * page_size), index) for index in normal)
        return {page: index for page, index in pages if page in wanted}


def _read(fd: int, offset: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.pread(fd, size - len(parts), offset + len(parts))
        if not part:
            raise EOFError(f"file ends at {offset + len(parts):#x}, before {offset + size:#x}")
        parts += part
    return bytes(parts)
