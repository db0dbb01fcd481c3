"""What a picture is of: the pages of one memory or the changes between two, state by state, and
where they lie.

Facts: a block of RAM can lie in several parts in the guest's physical memory, some of them more
than once, some not at all. Decision: every page is in exactly one span, so that the counts of a
picture are those of the scan; where a page has two addresses it is shown at the lower one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pagecheck.errors import UsageError
from pagecheck.picture.states import CHANGES, PAGES, State
from pagecheck.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pagecheck.model import Region
    from pagecheck.report.report import BlockReport, Report

    Bits = NDArray[np.uint8]


class Span(NamedTuple):
    """Consecutive pages of a block, at consecutive addresses where these are known.

    Attributes:
        block: number of the block.
        first: its first page in the block.
        pages: how many.
        address: guest-physical address of the first; None where the guest has none for it, or
            that is not known.
    """

    block: int
    first: int
    pages: int
    address: int | None


class Block(NamedTuple):
    """The pages of a block.

    Attributes:
        name: any text.
        pages: how many.
        bits: of each state the bitmap (bit i % 8 of byte i / 8 is page i), no page in two; None
            for a state that no page has. Undecided has none: its pages are in no other.
    """

    name: str
    pages: int
    bits: tuple[Bits | None, ...]

    def counts(self, states: Sequence[State]) -> list[int]:
        """Its pages of each state."""
        found = [0 if each is None else int(popcount(each).sum()) for each in self.bits]
        found[undecided_of(states)] = self.pages - sum(found)
        return found


class Memory(NamedTuple):
    """What a picture is of.

    Attributes:
        title: the source as the user named it, or both.
        page_size: bytes.
        states: of its pages.
        blocks: at least one.
        spans: in the order of the picture; every page of every block is in one.
        notes: for the user, one line each.
    """

    title: str
    page_size: int
    states: tuple[State, ...]
    blocks: tuple[Block, ...]
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> list[int]:
        """The pages of each state."""
        every = [each.counts(self.states) for each in self.blocks]
        return [sum(column) for column in zip(*every, strict=True)]


def undecided_of(states: Sequence[State]) -> int:
    """The number of the state of pages that are in no bitmap."""
    return [each.name for each in states].index("undecided")


def popcount(bits: Bits) -> Bits:
    """The number of ones in each byte."""
    found: Bits
    if hasattr(np, "bitwise_count"):  # numpy 2.0
        found = np.bitwise_count(bits)
    else:
        ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
        found = ones.astype(np.uint8)[bits]
    return found


def of_report(report: Report) -> Memory:
    """The memory that a scan found."""
    blocks = tuple(_block(each) for each in report.blocks)
    pieces = [_pieces(each.regions, each.block.start) for each in report.blocks]
    return Memory(
        report.source,
        report.page_size,
        PAGES,
        blocks,
        spans_of([each.pages for each in blocks], pieces, report.page_size),
        report.notes,
    )


def _pieces(regions: Iterable[Region], start: int) -> list[tuple[int, int, int]]:
    return [(r.guest_phys_addr, r.memory_size, r.mmap_offset - start) for r in regions]


def _block(block: BlockReport) -> Block:
    pages = block.block.pages
    zero, hole, normal, unchanged = (
        None if words is None else _bytes(words, pages)
        for words in (block.zero, block.hole, block.normal, block.unchanged)
    )
    assert zero is not None
    read = zero if hole is None else zero & ~hole
    return Block(block.block.name, pages, (read, hole, normal, None, unchanged))


def of_bitmap(name: str, zero: bytes | memoryview, pages: int) -> Block:
    """A block of which the zero pages are known, and all others are normal."""
    found = _bytes(memoryview(zero), pages)
    return Block(name, pages, (found, None, ~found & full(pages), None, None))


def _bytes(words: memoryview, pages: int) -> Bits:
    return np.frombuffer(words, np.uint8)[: -(-pages // 8)]


def full(pages: int) -> Bits:
    """A bitmap with the bits of all pages."""
    bits = np.full(-(-pages // 8), 255, np.uint8)
    if pages % 8:
        bits[-1] = (1 << pages % 8) - 1
    return bits


def spans_of(
    pages: Sequence[int], pieces: Sequence[Iterable[tuple[int, int, int]]], page_size: int
) -> tuple[Span, ...]:
    """Every page of every block once: those with an address by address, then the others.

    Args:
        pages: of each block.
        pieces: of each block where it lies: guest-physical address, bytes, offset in the block.
        page_size: bytes; of a page that two pieces share the address is not known.
    """
    found: list[Span] = []
    for number, (count, places) in enumerate(zip(pages, pieces, strict=True)):
        free = [(0, count)]
        for address, size, offset in sorted(places):
            first, end = -(-offset // page_size), min((offset + size) // page_size, count)
            left: list[tuple[int, int]] = []
            for low, high in free:
                begin, stop = max(low, first), min(high, end)
                if begin >= stop:
                    left.append((low, high))
                    continue
                at = address + begin * page_size - offset
                found.append(Span(number, begin, stop - begin, at))
                left += [part for part in ((low, begin), (stop, high)) if part[0] < part[1]]
            free = left
        found += [Span(number, low, high - low, None) for low, high in free]
    return tuple(sorted(found, key=lambda s: (s.address is None, s.address or 0, s.block, s.first)))


def compare(before: Memory, after: Memory) -> Memory:
    """What became of the pages of one memory in another.

    Blocks of one name are the same block; the only block of each is, whatever they are called.

    Raises:
        UsageError: they have pages of different sizes, or no block in common.
    """
    if before.page_size != after.page_size:
        raise UsageError(
            f"{printable(before.title)} has pages of {before.page_size} bytes, "
            f"{printable(after.title)} of {after.page_size}: they cannot be compared"
        )
    pairs = pairs_of(before, after)
    blocks = tuple(_changes(one, other) for one, other in pairs)
    pieces = [_addresses(before, one) or _addresses(after, other) for one, other in pairs]
    return Memory(
        f"{before.title} and {after.title}",
        before.page_size,
        CHANGES,
        blocks,
        spans_of([each.pages for each in blocks], pieces, before.page_size),
        tuple(dict.fromkeys((*before.notes, *after.notes))),
    )


def pairs_of(before: Memory, after: Memory) -> list[tuple[Block | None, Block | None]]:
    """The blocks of two memories that are the same block; None where one has none.

    Raises:
        UsageError: they have no block in common.
    """
    if len(before.blocks) == len(after.blocks) == 1:
        return [(before.blocks[0], after.blocks[0])]
    old, new = ({each.name: each for each in m.blocks} for m in (before, after))
    if not old.keys() & new.keys():
        raise UsageError(
            f"{printable(before.title)} and {printable(after.title)} have no block of RAM in "
            "common: they cannot be compared"
        )
    return [(old.get(name), new.get(name)) for name in dict.fromkeys((*old, *new))]


def _addresses(memory: Memory, block: Block | None) -> list[tuple[int, int, int]]:
    size = memory.page_size
    return [
        (each.address, each.pages * size, each.first * size)
        for each in memory.spans
        if memory.blocks[each.block] is block and each.address is not None
    ]


def _changes(one: Block | None, other: Block | None) -> Block:
    of = one or other
    assert of is not None
    both = min(one.pages if one else 0, other.pages if other else 0)
    pages = max(one.pages if one else 0, other.pages if other else 0)
    was_zero, was_normal = _zero_and_normal(one, both)
    is_zero, is_normal = _zero_and_normal(other, both)
    in_both = (
        was_zero & is_zero,
        was_normal & is_normal,
        was_zero & is_normal,
        was_normal & is_zero,
    )
    longer = [_padded(each, pages) for each in in_both]
    return Block(of.name, pages, (*longer, None, full(pages) & ~_padded(full(both), pages)))


def _zero_and_normal(block: Block | None, pages: int) -> tuple[Bits, Bits]:
    """The bitmaps of the first pages, no bit of others set."""
    every = full(pages)
    if block is None:
        return every, every  # of no pages
    zero, hole, normal = (
        np.zeros_like(every) if bits is None else bits[: len(every)] & every
        for bits in block.bits[:3]
    )
    return zero | hole, normal


def _padded(bits: Bits, pages: int) -> Bits:
    found = np.zeros(-(-pages // 8), np.uint8)
    found[: len(bits)] = bits
    return found
