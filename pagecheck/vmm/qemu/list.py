"""Walks the list that QEMU keeps of its RAM blocks, for versions that do not tell where they lie.

Facts: a block's structure holds its name, the numbers that are listed, and the links of a list that
has all blocks, in both directions. One that is found is a way to all others, without a search of
the whole heap. Danger: a structure of a block that is gone, or of a QEMU that lays it out
differently. Decision: the list counts only where each link is answered by the one that leads back,
and it has every listed block once and nothing else; otherwise the heap is searched.

Source: struct RAMBlock in QEMU's include/exec/ramblock.h; QLIST in include/qemu/queue.h.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection
from mmap import PAGESIZE
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.resident import read_resident
from pagecheck.vmm.qemu.objects import Numbers, at_host

# From the host address on: that, a cache, offset, used and largest length, a function, flags, name,
# the links forward and back. The first points at a structure, the other at a link forward.
_STRUCTURE: Final = struct.Struct("=QQQQQQI256s4xQQ")
_HOST: Final = 24  # where that is in a structure
_LINK: Final = _HOST + _STRUCTURE.size - 16  # and the link forward


class Listed(NamedTuple):
    """A block as QEMU lists it.

    Attributes:
        name: empty where it is not migrated.
        numbers: offset, used and largest length.
    """

    name: str
    numbers: Numbers


class _Found(NamedTuple):
    """A structure in QEMU's memory."""

    at: int
    listed: Listed
    host: int
    next: int
    link_to_this: int

    @property
    def is_block(self) -> bool:
        """Whether it may be one: the list's head, which lies elsewhere, has numbers by chance."""
        return 0 < self.listed.numbers[1] <= self.listed.numbers[2]


def walk_list(
    pagemap: int,
    memory: int,
    mappings: list[Mapping],
    listed: Collection[Listed],
    known: Listed,
    host: int,
) -> dict[str, int]:
    """Finds where RAM blocks lie.

    Args:
        pagemap, memory: of QEMU's process.
        mappings: what it maps.
        listed: every block.
        known: one of them.
        host: where that lies.

    Returns:
        Host addresses by name; empty where no list has exactly these blocks.
    """
    process = _Process(pagemap, memory)
    for address in at_host(pagemap, memory, mappings, known.numbers, host):
        first = process.structure(address - _HOST)
        if first is None or first.listed != known:
            continue
        found = process.whole_list(first, len(listed))
        if sorted(each.listed for each in found) == sorted(listed):
            return {each.listed.name: each.host for each in found if each.listed.name}
    return {}


class _Process:
    """Reads structures of a process that runs: any of them may be gone."""

    def __init__(self, pagemap: int, memory: int) -> None:
        self._files = pagemap, memory

    def structure(self, at: int) -> _Found | None:
        begin, end = at + _HOST, at + _HOST + _STRUCTURE.size
        low, high = begin - begin % PAGESIZE, end + -end % PAGESIZE
        text = b""
        with contextlib.suppress(SourceError, OverflowError):  # no address of this process
            pieces = read_resident(*self._files, low, high, skip_unreadable=True)
            text = b"".join(piece for _, piece in pieces)
        if len(text) != high - low:
            return None
        host, _, *numbers, _, _, name, next_, back = _STRUCTURE.unpack_from(text, begin - low)
        shown = name.partition(b"\0")[0].decode(errors="surrogateescape")
        return _Found(at, Listed(shown, tuple(numbers)), host, next_, back)

    def whole_list(self, one: _Found, most: int) -> list[_Found]:
        """The list that a structure is in, of which at most one more than that is read; a link that
        no other one answers ends it.
        """
        found = [one]
        while len(found) <= most:
            before = self.structure(found[0].link_to_this - _LINK)
            if before is None or before.next != found[0].at or not before.is_block:
                break
            found.insert(0, before)
        while len(found) <= most and found[-1].next:
            behind = self.structure(found[-1].next)
            if behind is None or behind.link_to_this != found[-1].at + _LINK:
                break
            found.append(behind)
        return found
