"""The answers to the parts of one piece, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pagecheck.model import Counts, RamBlock
from pagecheck.picture.strip import Strip
from pagecheck.report.report import BlockReport

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tally:
    """What is known of a piece so far.

    Attributes:
        counts: of its pages.
        note: a doubt about the object, or why pages are undecided; the first.
        strip: where they lie in the object; None where nobody wants to see it.
    """

    def __init__(self, size: int, page_size: int, *, pictures: bool) -> None:
        """Nothing is known.

        Args:
            size: bytes of the object.
        """
        self.counts = Counts()
        self.note: str | None = None
        self.strip = Strip(size // page_size) if pictures else None
        self._page_size = page_size

    def add(self, first: int, zero: NDArray[np.bool_], decided: NDArray[np.bool_]) -> None:
        """Adds the answer about consecutive pages.

        Args:
            first: the number of the first of them in the object.
            zero, decided: as of `Answer`.
        """
        zero, normal = zero & decided, decided & ~zero
        pages, zeros, others = len(zero), int(zero.sum()), int(normal.sum())
        counts = Counts(pages, zero=zeros, normal=others, undecided=pages - zeros - others)
        self.counts = Counts.sum((self.counts, counts))
        if self.strip is not None:
            block = RamBlock("", pages * self._page_size, self._page_size)
            self.strip.add(BlockReport(block, counts, _words(zero), _words(normal)), first)


def _words(bits: NDArray[np.bool_]) -> memoryview:
    """A bitmap as scans make it: bit i % 64 of the little-endian word i // 64."""
    return np.packbits(np.pad(bits, (0, -len(bits) % 64)), bitorder="little").data
