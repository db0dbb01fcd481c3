"""Holes in files of ours."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

_KEEP_SIZE: Final = 1  # Source: linux/falloc.h
_PUNCH_HOLE: Final = 2
_ZEROS: Final = bytes(1 << 20)


def punch(fd: int, offset: int, size: int) -> None:
    """Makes a part of a file read as zeros, as a hole where its file system has holes.

    Raises:
        OSError: it cannot be written.
    """
    libc: Any = ctypes.CDLL(None, use_errno=True)
    where = (ctypes.c_int64(offset), ctypes.c_int64(size))
    if libc.fallocate64(fd, _KEEP_SIZE | _PUNCH_HOLE, *where) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise OSError(number, os.strerror(number))
    end = offset + size
    while offset < end:
        offset += os.pwrite(fd, _ZEROS[: end - offset], offset)
