"""Which pages of a block a job is about: ranges, or the bits of a bitmap such as a dirty log.

Pages are worked on in windows, so that a block of any size needs little memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from pagecheck.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_PAGES: Final = 1 << 18  # 1 GiB of 4 KiB pages; a multiple of 64


class Selection(Protocol):
    """Some pages of a block."""

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """bool[count]: which of the pages from `first` (a multiple of 64) on are selected."""


class Ranges:
    """Pages by index and count."""

    def __init__(self, ranges: Sequence[tuple[int, int]], pages: int) -> None:
        """Checks and sorts them; they may overlap.

        Args:
            ranges: (first page, number of pages).
            pages: pages of the block.

        Raises:
            UsageError: a range is empty, negative or outside the block.
        """
        for index, (first, count) in enumerate(ranges):
            if first < 0 or count <= 0 or first + count > pages:
                raise UsageError(
                    f"ranges[{index}]: {count} pages from page {first}: not inside the block of "
                    f"{pages} pages"
                )
        self._ranges = np.array(sorted(ranges), np.uint64).reshape(-1, 2)

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """See `Selection`."""
        chosen = np.zeros(count, np.bool_)
        begins = self._ranges[:, 0].astype(np.int64)
        ends = begins + self._ranges[:, 1].astype(np.int64)
        inside = (begins < first + count) & (ends > first)
        for begin, end in zip(begins[inside].tolist(), ends[inside].tolist(), strict=True):
            chosen[max(begin - first, 0) : end - first] = True
        return chosen


class Bitmap:
    """Pages whose bit is set in a file: little-endian words, bit i % 64 of word i / 64 is page i,
    as in KVM's dirty log. It is read piece by piece as the work goes, never mapped."""

    def __init__(self, fd: int, pages: int) -> None:
        """Looks at the size only.

        Args:
            fd: open for reading; stays the caller's.
            pages: pages of the block.

        Raises:
            UsageError: the file is too short for that many pages.
        """
        need = (pages + 63) // 64 * 8
        size = os.fstat(fd).st_size
        if size < need:
            raise UsageError(
                f"bitmap of {size} bytes: a block of {pages} pages needs {need} bytes of whole "
                "64-bit words"
            )
        self._fd = fd

    def window(self, first: int, count: int) -> NDArray[np.bool_]:
        """See `Selection`.

        Raises:
            UsageError: the file was cut short.
        """
        wanted = (count + 7) // 8
        raw = os.pread(self._fd, wanted, first // 8)
        if len(raw) < wanted:
            raise UsageError("bitmap: the file was cut short while it was read")
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little")
        return bits.view(np.bool_)


def windows(pages: int) -> Iterator[tuple[int, int]]:
    """(first page, number of pages) of every window of a block."""
    for first in range(0, pages, WINDOW_PAGES):
        yield first, min(WINDOW_PAGES, pages - first)
