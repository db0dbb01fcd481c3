"""The bitmaps of one scan of one block, in a segment of their own.

The coordinator is their only writer. The words are little-endian uint64, bit i % 64 of word i / 64
is page i: the same bytes as KVM's dirty log and QEMU's mapped-ram bitmap.
"""

from __future__ import annotations

import mmap
import sys

from pagecheck.model import Counts
from pagecheck.native import _native
from pagecheck.shm.owner import Owner
from pagecheck.shm.segments import Segment


def _map(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    return mmap.mmap(fd, size)  # keeps a duplicate of the descriptor as long as the views live


class BlockBitmaps:
    """`zero`, `normal` and `hole` of one block; for a diff snapshot a hole means unchanged.

    The views stay valid after `remove`, as long as somebody holds them.
    """

    def __init__(self, owner: Owner, what: str, pages: int) -> None:
        """Allocates the words, all 0.

        Raises:
            ResourceError: /dev/shm has no room.
        """
        self.pages = pages
        words = (pages + 63) // 64 * 8
        self._segment = Segment(owner.name(what), max(3 * words, mmap.PAGESIZE))
        memory = memoryview(_map(self._segment.fd, self._segment.size))
        self._segment.close()
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
        """Removes the segment's name."""
        self._segment.remove()
