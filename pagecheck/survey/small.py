"""Small files, each read into one buffer that the worker knows, and checked there.

Facts: to make a file known to a worker, to scan it and to have it forgotten takes half a
millisecond of Python, a check of pages that the worker has mapped 20 us. Danger: bytes of the file
before, where a read ends early. Decision: a read that does not fill its place is an error, and what
was not read is not asked about.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from pagecheck.model import Counts
from pagecheck.plan import make_block, page_runs
from pagecheck.shm.extents import by_seeking
from pagecheck.survey.values import was_cut

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.shm.ram import RamSource


class SmallFiles:
    """One buffer; for one thread at a time."""

    def __init__(self, coordinator: Coordinator, page_size: int, most: int) -> None:
        """Makes the buffer, and makes it known to the workers, which forget it at their end.

        Args:
            most: bytes of the largest file, a multiple of the page size.

        Raises:
            OSError, ResourceError: there is a shortage.
        """
        fd = os.memfd_create("pagecheck-small", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, most)
            self._buffer = memoryview(mmap.mmap(fd, most))
            self._block = coordinator.attach(
                f"fd:{fd}", page_size=page_size, access="map", format="raw"
            )
        finally:
            os.close(fd)
        self._coordinator = coordinator
        self._page_size = page_size
        self._offsets = np.arange(0, most, page_size, dtype=np.uint64)

    def check(
        self, source: RamSource, size: int, *, trust_holes: bool
    ) -> tuple[Counts, tuple[str, ...]]:
        """Decides the pages of a file from its beginning.

        Args:
            size: bytes, whole pages and no more than the buffer has.

        Returns:
            The counts, and why pages are undecided.

        Raises:
            SourceError: the file was cut.
            OSError: it cannot be read.
        """
        ram = make_block(source.name, size, self._page_size)
        extents = [(0, ram.size)]
        if trust_holes and source.holes_are_proof and not source.looks_dense:
            extents = list(by_seeking(source.fd, 0, ram.size))
        hole, asked = 0, []
        for run in page_runs(extents, ram, "full"):
            if run.hole:
                hole += run.pages
            else:
                self._read(source, run.first * ram.page_size, run.pages * ram.page_size)
                asked.append(self._offsets[run.first : run.first + run.pages])
        if not asked:
            return Counts(ram.pages, zero=hole, hole=hole), ()
        answer = self._coordinator.check(self._block, np.concatenate(asked))
        zero, decided = int(answer.zero.sum()), int(answer.decided.sum())
        undecided = ram.pages - hole - decided
        counts = Counts(ram.pages, hole + zero, hole, decided - zero, undecided)
        return counts, answer.notes

    def _read(self, source: RamSource, start: int, size: int) -> None:
        at = start
        while at < start + size:
            got = os.preadv(source.fd, [self._buffer[at : start + size]], at)
            if not got:
                raise was_cut(source.text, at)
            at += got
