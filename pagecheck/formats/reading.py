"""Bounded reads, by position, of a file whose format is not known yet."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

PADDING_MAX: Final = 64 << 10
SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 4096


class File:
    """A file, wherever it lies.

    Attributes:
        head: its first bytes.
        size: bytes.
    """

    def __init__(self, head: bytes, size: int, read: Callable[[int, int], bytes]) -> None:
        """Reads nothing yet.

        Args:
            read: gives so many bytes from an offset, as os.pread does.
        """
        self.head = head
        self.size = size
        self._read = read

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from an offset; fewer at the end, none past it."""
        if not 0 <= offset < self.size:
            return b""
        return self._read(min(size, self.size - offset), offset)

    def unpack(self, form: str, offset: int = 0) -> tuple[Any, ...]:
        """Numbers as `struct` describes them; past the end of the file they are 0."""
        size = struct.calcsize(form)
        return struct.unpack(form, self.at(offset, size).ljust(size, b"\0"))

    def holds(self, offset: int, size: int) -> bool:
        """Whether that range lies in the file."""
        return offset >= 0 and size >= 0 and offset + size <= self.size

    def ends_at(self, end: int) -> bool:
        """Whether nothing but a short padding of zeros follows that offset."""
        left = self.size - end
        return 0 <= left < PADDING_MAX and not any(self.at(end, left))

    def has_zero_pages(self) -> bool:
        """Whether one of a few places in the file is 4096 zeros, which compressed data never is.
        Places near the end are left out: files are padded there."""
        for n in range(1, SAMPLES):
            at = self.size * n // SAMPLES
            if self.size - at <= PADDING_MAX:
                break
            if not any(self.at(at, _SAMPLE_BYTES)):
                return True
        return False
