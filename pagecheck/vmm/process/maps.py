"""What a process maps: the lines of /proc/PID/maps. Pure text; nothing is opened here."""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from pagecheck.errors import SourceError

DELETED: Final = " (deleted)"

_LINE: Final = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)"
)


class Mapping(NamedTuple):
    """One line of /proc/PID/maps.

    Attributes:
        start: address of its first byte.
        end: address after its last byte.
        perms: such as "rw-s".
        offset: byte offset in the file.
        dev: device of the file; st_dev may be another one (btrfs, overlayfs).
        inode: 0 for anonymous memory; a file of FUSE may have it too.
        path: as the kernel shows it, without the mark of a deleted file.
        deleted: whether the file has no name any more.
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: int
    inode: int
    path: str
    deleted: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def is_anonymous(self) -> bool:
        """Whether there is no file behind it."""
        return not self.inode and not self.dev

    @property
    def is_shared(self) -> bool:
        """Whether stores go to the file, and not to a private copy."""
        return self.perms[3] == "s"

    @property
    def is_readable(self) -> bool:
        """Whether the process may read it."""
        return self.perms.startswith("r")

    @property
    def is_writable(self) -> bool:
        """Whether the process may read and write it."""
        return self.perms.startswith("rw")


def parse_maps(text: str) -> list[Mapping]:
    """Reads the text of /proc/PID/maps.

    Raises:
        SourceError: a line is not one of that file.

    Source: show_map_vma() in fs/proc/task_mmu.c; a line break in a path is shown as \\012.
    """
    found = []
    for line in text.split("\n"):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SourceError(f"/proc/PID/maps: not a mapping: {line[:80]!r}")
        start, end, perms, offset, major, minor, inode, shown = match.groups()
        dev = os.makedev(int(major, 16), int(minor, 16))
        path = shown.removesuffix(DELETED)
        found.append(
            Mapping(
                start=int(start, 16),
                end=int(end, 16),
                perms=perms,
                offset=int(offset, 16),
                dev=dev,
                inode=int(inode),
                path=path.replace("\\012", "\n"),
                deleted=path != shown,
            )
        )
    return found


def covering(mappings: list[Mapping], base: int, size: int) -> Mapping | None:
    """One mapping in place of all those that together map a stretch of memory from one file.

    Args:
        mappings: in order of address.
        base: address of the first byte.
        size: bytes.

    Returns:
        The first of them; None where a part is not mapped, or not from the same file, in the same
        way and in one piece.
    """
    first: Mapping | None = None
    at = base
    for each in mappings:
        if not each.start <= at < each.end:
            continue
        if first is None:
            first = each
        if not _continues(first, each):
            return None
        at = each.end
        if at >= base + size:
            return first
    return None


def _continues(first: Mapping, other: Mapping) -> bool:
    """Whether both map one file, in the same way and in one piece."""
    if first[4:] != other[4:] or first.is_shared != other.is_shared:
        return False
    return first.is_anonymous or other.offset - other.start == first.offset - first.start


def is_still_mapped(mapping: Mapping, now: list[Mapping]) -> bool:
    """Whether a mapping of before is there now: the same file in the same place, whatever its name
    is by now and however many lines describe it."""
    found = covering(now, mapping.start, mapping.size)
    if found is None or (found.dev, found.inode) != (mapping.dev, mapping.inode):
        return False
    shift = found.offset - found.start, mapping.offset - mapping.start
    return found.is_shared == mapping.is_shared and shift[0] == shift[1]
