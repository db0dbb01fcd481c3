"""Guest RAM whose every page was chosen, and scans of it judged by that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.bitmaps import bits
from tests.support.rams import PAGE

KINDS = ("hole", "zeros", "first", "middle", "last", "random")


class KnownRam:
    """Guest RAM in a memfd, or in a file at `path`, with the truth about every page.

    A page is a hole, written zeros, has one byte that is not zero (the `first`, the `middle`, the
    `last`, or at `any` place), or is `random`.

    Attributes:
        fd: open for reading and writing.
        kinds: the kind of each page.
        zero, hole: bool[pages].
    """

    def __init__(
        self,
        pages: int = 4096,
        *,
        seed: int = 1,
        kinds: Sequence[str] = KINDS,
        shares: Sequence[float] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.pages = pages
        self.size = pages * PAGE
        rng = np.random.default_rng(seed)
        self.kinds = rng.choice(np.array(kinds), pages, p=shares)
        self.hole = self.kinds == "hole"
        self.zero = self.hole | (self.kinds == "zeros")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.fd = os.memfd_create("known-ram") if path is None else os.open(path, flags, 0o600)
        os.ftruncate(self.fd, self.size)
        at = {"first": 0, "middle": PAGE // 2 + 1, "last": PAGE - 1}
        for page, kind in enumerate(self.kinds.tolist()):
            if kind == "hole":
                continue
            content = bytearray(PAGE)
            if kind == "random":
                content[:] = rng.bytes(PAGE - 1) + b"\1"
            elif kind != "zeros":
                content[rng.integers(PAGE) if kind == "any" else at[kind]] = 1
            os.pwrite(self.fd, content, page * PAGE)

    @property
    def source(self) -> str:
        return f"fd:{self.fd}"

    @property
    def offsets(self) -> np.ndarray:
        return np.arange(self.pages, dtype=np.uint64) * np.uint64(PAGE)

    @property
    def st_blocks(self) -> int:
        return os.fstat(self.fd).st_blocks

    def close(self) -> None:
        os.close(self.fd)


def dense_ram(pages: int, *, normal_share: float = 0.5, seed: int = 1) -> KnownRam:
    """RAM without a hole; a normal page has one byte that is not zero."""
    shares = (1 - normal_share, normal_share)
    return KnownRam(pages, seed=seed, kinds=("zeros", "any"), shares=shares)


def assert_scan_is_right(
    report: Any, ram: KnownRam, undecided: set[int] | frozenset[int] = frozenset()
) -> None:
    """Every page but the undecided ones is right, and the counts say so."""
    block = report.blocks[0]
    decided = np.ones(ram.pages, bool)
    decided[list(undecided)] = False
    np.testing.assert_array_equal(bits(block.zero, ram.pages), ram.zero & decided)
    np.testing.assert_array_equal(bits(block.normal, ram.pages), ~ram.zero & decided)
    assert block.counts.undecided == len(undecided)
    assert block.counts.zero + block.counts.normal + len(undecided) == ram.pages
