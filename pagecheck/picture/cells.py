"""The cells of a picture: how many pages of each state are in each.

A cell is a run of pages, a power of two of them; each span begins with a new cell, so that a cell
has pages of one block at consecutive addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pagecheck.picture.memory import popcount, undecided_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pagecheck.picture.memory import Bits, Memory, Span

    Counts = NDArray[np.uint32]


class Cells(NamedTuple):
    """The cells of a memory.

    Attributes:
        memory: that they are of.
        cell_pages: pages of a cell; the last cell of a span may have fewer.
        counts: uint32[cells, states].
        starts: of each span its first cell, and then the number of cells.
    """

    memory: Memory
    cell_pages: int
    counts: Counts
    starts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The counts of every cell, span by span."""
        memory = self.memory
        return {
            "version": 1,
            "source": memory.title,
            "page_size": memory.page_size,
            "cell_pages": self.cell_pages,
            "states": [each.name for each in memory.states],
            "total": memory.counts,
            "spans": [
                {
                    "block": memory.blocks[span.block].name,
                    "first_page": span.first,
                    "pages": span.pages,
                    "address": span.address,
                    "cells": self.counts[begin:end].tolist(),
                }
                for span, begin, end in zip(
                    memory.spans, self.starts, self.starts[1:], strict=False
                )
            ],
            "notes": list(memory.notes),
        }


def cells_of(memory: Memory, most: int) -> Cells:
    """The cells of a memory.

    Args:
        most: cells at most, or as many as there are spans where these are more.
    """
    most = max(most, len(memory.spans))
    each = 1
    while sum(-(-span.pages // each) for span in memory.spans) > most:
        each *= 2
    counts = [count(memory, span, each) for span in memory.spans]
    starts = np.cumsum([0, *map(len, counts)]).tolist()
    return Cells(memory, each, np.concatenate(counts), tuple(starts))


def count(memory: Memory, span: Span, each: int) -> Counts:
    """The pages of each state in the cells of a span, uint32[cells, states].

    Args:
        each: pages of a cell, a power of two.
    """
    cells = -(-span.pages // each)
    found = np.zeros((cells, len(memory.states)), np.uint32)
    for state, bits in enumerate(memory.blocks[span.block].bits):
        if bits is not None:
            found[:, state] = _ones(aligned(bits, span.first, span.pages), each, cells)
    sizes = np.full(cells, each, np.uint32)
    sizes[-1] = span.pages - (cells - 1) * each
    found[:, undecided_of(memory.states)] = sizes - found.sum(axis=1, dtype=np.uint32)
    return found


def aligned(bits: Bits, first: int, pages: int) -> Bits:
    """The bits of some pages, from bit 0 of the first byte on; the last byte's others are 0."""
    low, shift, size = first // 8, first % 8, -(-pages // 8)
    found = bits[low : low + size]
    if shift:
        following = np.zeros_like(found)
        after = bits[low + 1 : low + 1 + size]
        following[: len(after)] = after
        pairs = found.astype(np.uint16) | following.astype(np.uint16) << 8
        found = (pairs >> shift).astype(np.uint8)
    if pages % 8:
        found = found.copy()
        found[-1] &= (1 << pages % 8) - 1
    return found


def _ones(bits: Bits, each: int, cells: int) -> Counts:
    """The ones in runs of `each` bits."""
    values: Bits = popcount(bits) if each >= 8 else np.unpackbits(bits, bitorder="little")
    run = each // 8 or each
    rest = np.zeros(cells * run, np.uint8)
    rest[: min(len(values), len(rest))] = values[: len(rest)]
    found: Counts = rest.reshape(cells, run).sum(axis=1, dtype=np.uint32)
    return found
