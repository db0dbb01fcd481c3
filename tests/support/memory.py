"""An area of private anonymous memory in this process, to be changed by hand."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_RANGE: list[Any] = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.munmap.argtypes = _RANGE
_LIBC.mprotect.argtypes = _LIBC.madvise.argtypes = [*_RANGE, ctypes.c_int]
MAP_FIXED = 0x10
PAGE = 4096


class Area:
    """Some pages, with an inaccessible one at either end, so that nothing merges with them.

    Attributes:
        base: address of the first page.
        size: bytes.
    """

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE
        self._whole = _mapped(None, self.size + 2 * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.base = self._whole + PAGE
        self.protect(0, pages, mmap.PROT_READ | mmap.PROT_WRITE)

    def write(self, page: int, data: bytes) -> None:
        ctypes.memmove(self.base + page * PAGE, data, len(data))

    def unmap(self, page: int, pages: int) -> None:
        _done(_LIBC.munmap(self.base + page * PAGE, pages * PAGE))

    def protect(self, page: int, pages: int, protection: int) -> None:
        _done(_LIBC.mprotect(self.base + page * PAGE, pages * PAGE, protection))

    def advise(self, page: int, pages: int, advice: int) -> None:
        _done(_LIBC.madvise(self.base + page * PAGE, pages * PAGE, advice))

    def map_file(
        self, page: int, pages: int, fd: int, offset: int, *, shared: bool = False
    ) -> None:
        kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        both = mmap.PROT_READ | mmap.PROT_WRITE
        _mapped(self.base + page * PAGE, pages * PAGE, both, kind | MAP_FIXED, fd, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        _LIBC.munmap(self._whole, self.size + 2 * PAGE)


def _mapped(
    at: int | None, size: int, protection: int, flags: int, fd: int = -1, offset: int = 0
) -> int:
    address: int | None = _LIBC.mmap(at, size, protection, flags, fd, offset)
    if address == ctypes.c_void_p(-1).value or address is None:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address


def _done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
