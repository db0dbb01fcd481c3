"""The bitmaps of one scan of one block, in a shared memory segment of their own.

The coordinator is their only writer. The words are little-endian uint64, bit i % 64 of word i / 64
is page i: the same bytes as KVM's dirty log and QEMU's mapped-ram bitmap.
"""

from __future__ import annotations

import mmap
import sys

from pagecheck.model import Counts
from pagecheck.native import _native
from pagecheck.shm.segments import Memfd, Segment


def _map(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    return mmap.mmap(fd, size)  # keeps a duplicate of the descriptor as long as the views live


def bitmap_bytes(pages: int) -> int:
    """Bytes of the three bitmaps of that many pages: zero, normal, hole, one after the other."""
    return (pages + 63) // 64 * 8 * 3


class BlockBitmaps:
    """`zero`, `normal` and `hole` of one block; for a diff snapshot a hole means unchanged.

    The views stay valid after `remove`, as long as they are referenced.
    """

    def __init__(self, store: Segment | Memfd, pages: int, offset: int = 0) -> None:
        """Uses words that are all 0.

        Args:
            store: at least `bitmap_bytes(pages)` bytes from `offset` on; its descriptor may be
                closed afterwards.
            offset: bytes, a multiple of 8.
        """
        self.pages = pages
        words = bitmap_bytes(pages) // 3
        self._store = store
        memory = memoryview(_map(store.fd, store.size))[offset:]
        self.zero = memory[:words]
        self.normal = memory[words : 2 * words]
        self.hole = memory[2 * words : 3 * words]

    def counts(self, *, diff: bool) -> Counts:
        """Counts every bit; for a diff, holes are unchanged pages and not zero."""
        zero = _native.bits_count(self.zero, self.pages)
        normal = _native.bits_count(self.normal, self.pages)
        hole = _native.bits_count(self.hole, self.pages)
        unchanged = hole if diff else 0
        return Counts(
            pages=self.pages,
            zero=zero,
            hole=0 if diff else hole,
            normal=normal,
            undecided=self.pages - zero - normal - unchanged,
            unchanged=unchanged,
        )

    def forget_from(self, page: int) -> None:
        """Makes every page from `page` on undecided; no other thread may publish meanwhile."""
        for words in (self.zero, self.normal, self.hole):
            if page < self.pages:
                _native.bits_clear(words, page, self.pages - page)

    def remove(self) -> None:
        """Removes the name, if it has one."""
        self._store.remove()
