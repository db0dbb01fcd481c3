"""Reads QEMU's `info mtree -f`: which part of which RAM block lies where in guest memory.

It is text for people, and the only place where QEMU shows all of it. A line that is not understood
is skipped; the caller compares the result with the blocks that there are.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# RAM under a ROM of the chipset ("rom"), and non-volatile memory ("nv-"), are RAM blocks too.
_KINDS: Final = {"ram", "rom", "nv-ram", "nv-rom"}
_SPACE: Final = re.compile(r' AS "([^"]*)"')
# Behind the offset the accelerator may have written its name, such as KVM.
_RANGE: Final = re.compile(
    r"\s+([0-9a-f]+)-([0-9a-f]+) \(prio -?\d+, ([^)]+)\): (\S+)(?: @([0-9a-f]+))?(?: \w+)*\s*"
)


class RamRange(NamedTuple):
    """A stretch of guest-physical memory that shows a part of a RAM block.

    Attributes:
        gpa: guest-physical address of its first byte.
        size: bytes; 0 or less where the text has an end before the beginning.
        block: id of the RAM block.
        offset: byte offset in the block.
    """

    gpa: int
    size: int
    block: str
    offset: int


def parse_mtree(text: str) -> list[RamRange]:
    """Finds the RAM and ROM of the address space "memory".

    Args:
        text: what `info mtree -f` printed.

    Returns:
        The ranges, in order of address; neighbours that continue each other are one. Empty if
        there is no such address space in the text.

    Source: mtree_print_flatview() in QEMU's softmmu/memory.c (7.2), system/memory.c.
    """
    ranges: list[RamRange] = []
    spaces: set[str] = set()
    for line in text.splitlines():
        if line.startswith("FlatView"):
            spaces = set()
        elif (space := _SPACE.match(line)) is not None:
            spaces.add(space[1])
        elif "memory" in spaces and (found := _RANGE.fullmatch(line)) is not None:
            start, end, kind, name, offset = found.groups()
            if kind in _KINDS:
                gpa = int(start, 16)
                size = int(end, 16) - gpa + 1
                # Machine types up to 4.0 may show the path of the backend instead of its id.
                block = name.removeprefix("/objects/")
                _append(ranges, RamRange(gpa, size, block, int(offset or "0", 16)))
    return ranges


def _append(ranges: list[RamRange], new: RamRange) -> None:
    if ranges and new.size > 0:
        last = ranges[-1]
        follows = (last.block, last.gpa + last.size) == (new.block, new.gpa)
        if follows and last.offset + last.size == new.offset:
            ranges[-1] = last._replace(size=last.size + new.size)
            return
    ranges.append(new)
