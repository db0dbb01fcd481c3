"""Guest RAM of which every page is known."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

PAGE: Final = 4096
_CHUNK_PAGES: Final = 1 << 14


class KnownRam:
    """RAM in a memfd or a file: holes, written zeros and pages with one byte that is not zero.

    Attributes:
        fd: open for reading and writing; the caller closes it.
        pages: how many there are.
        zero: bool[pages]; the truth.
    """

    def __init__(self, pages: int, seed: int, path: str | None = None) -> None:
        """Writes it.

        Args:
            path: of a new file; by default a memfd.
        """
        rng = np.random.default_rng(seed)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.memfd_create("soak") if path is None else os.open(path, flags, 0o600)
        self.pages = pages
        self.zero: NDArray[np.bool_] = rng.random(pages) < 0.5
        os.ftruncate(self.fd, pages * PAGE)
        for first in range(0, pages, _CHUNK_PAGES):
            zero = self.zero[first : first + _CHUNK_PAGES]
            content = np.zeros((len(zero), PAGE), np.uint8)
            normal = np.flatnonzero(~zero)
            content[normal, rng.integers(0, PAGE, len(normal))] = 1
            os.pwrite(self.fd, content.data, first * PAGE)
        hole_pages = pages // 8  # at the end
        if hole_pages:
            self.zero[-hole_pages:] = True
            os.ftruncate(self.fd, (pages - hole_pages) * PAGE)
            os.ftruncate(self.fd, pages * PAGE)
