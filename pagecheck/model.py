"""Frozen values that travel between the rooms: what a block is, how many pages are what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["full", "diff"]
Holes = Literal["trust", "read"]
Access = Literal["auto", "map", "read"]
AnswerKind = Literal["at-rest", "live", "paused"]


class RamBlock(NamedTuple):
    """One contiguous range of guest RAM.

    Attributes:
        name: its name; for a path the file name.
        size: bytes, a multiple of page_size.
        page_size: bytes per page, a power of two of at least 4096.
        start: byte offset in the backing file of page 0.
    """

    name: str
    size: int
    page_size: int
    start: int = 0

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.size // self.page_size


class Counts(NamedTuple):
    """Pages by kind; zero + normal + undecided + unchanged = pages, and holes are also zero."""

    pages: int = 0
    zero: int = 0
    hole: int = 0
    normal: int = 0
    undecided: int = 0
    unchanged: int = 0

    @classmethod
    def sum(cls, counts: Iterable[Counts]) -> Counts:
        """All of them together."""
        return cls(*map(sum, zip(cls(), *counts, strict=True)))
