"""What the private mappings of a process are, as far as the mappings themselves show it.

Facts: a VMM's private guest RAM can be read and written, is not executable, and is anonymous or a
private mapping of a file (huge pages of hugetlbfs, a snapshot). So are a heap, malloc's arenas, and
a program's data; a dynamic translator's buffer is executable. Neighbouring anonymous mappings with
equal flags become one, and a part with another protection or flag becomes a mapping of its own.
Pure text; nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping as Names
from collections.abc import Sequence
from typing import Final, NamedTuple

from pagecheck.vmm.process.maps import Mapping

LEAST_BYTES: Final = 16 << 20

# Source: HEAP_MAX_SIZE of 64-bit glibc's malloc/arena.c; an arena begins at a multiple of it.
_ARENA: Final = 64 << 20

RAM: Final = "RAM"
NOT_RAM: Final = "not RAM"
UNKNOWN: Final = "unknown"

Row = tuple[Mapping, Sequence[str]]
Shared = Names[tuple[int, int], str]  # names of shared RAM blocks by their files' device and inode


class Considered(NamedTuple):
    """A mapping, and whether it is guest RAM.

    Attributes:
        mapping: from the process's maps.
        flags: its two-letter flags, as in smaps.
        verdict: RAM, NOT_RAM or UNKNOWN.
        why: the reason.
    """

    mapping: Mapping
    flags: tuple[str, ...]
    verdict: str
    why: str

    @property
    def shown(self) -> str:
        """Its addresses and size, for messages."""
        return stretch_text(self.mapping.start, self.mapping.end)


def stretch_text(start: int, end: int) -> str:
    """Addresses, and the size between them, for messages."""
    return f"{start:#x}-{end:#x} ({size_mib(end - start)})"


def size_mib(size: int) -> str:
    """Bytes as MiB, for messages."""
    return f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size / (1 << 20):.1f} MiB"


def is_anonymous(mapping: Mapping) -> bool:
    """Whether it is private, and no file is behind it."""
    return mapping.is_anonymous and not mapping.is_shared


def considered(
    rows: Sequence[Row], shared: Shared, sizes: frozenset[int] = frozenset()
) -> list[Considered]:
    """The mappings that are large enough to be guest RAM, each with what it is.

    Args:
        rows: all mappings of a process with their flags, in order of address.
        shared: its shared RAM blocks, which are known already.
        sizes: bytes of RAM blocks; a mapping of such a size is considered, however small.

    Returns:
        One for each; the verdict is UNKNOWN where it may be private guest RAM.
    """
    programs = {_file(each) for each, _ in rows if "x" in each.perms and each.inode}
    found = []
    for number, (each, flags) in enumerate(rows):
        is_block = each.is_shared and each.is_readable and _file(each) in shared
        if each.size < LEAST_BYTES and each.size not in sizes and not is_block:
            continue
        if is_block:
            verdict, why = RAM, f"shared memory: {shared[_file(each)]}"
        else:
            behind = rows[number + 1][0] if number + 1 < len(rows) else None
            why = _why_not(each, behind, programs)
            verdict = NOT_RAM if why else UNKNOWN
        found.append(Considered(each, tuple(flags), verdict, why))
    return found


def _why_not(mapping: Mapping, behind: Mapping | None, programs: set[tuple[int, int]]) -> str:
    """Why a mapping is not private guest RAM; empty where it may be."""
    if "x" in mapping.perms:
        return "executable: code, or what a translator made"
    if mapping.inode and _file(mapping) in programs:
        return "of a file that is mapped executable too: a program, or what a translator made"
    if mapping.is_shared:
        return "shared, but no memory of the kinds that guest RAM is made of"
    if not mapping.is_writable:
        return "cannot be written, or is reserved only"
    if mapping.path.startswith(("[heap]", "[stack", "[anon: glibc: malloc")):
        return "the heap or a stack"
    if mapping.path.startswith("[") and not mapping.path.startswith("[anon:"):
        return "the kernel's"
    if _is_arena(mapping, behind):
        return "an arena of malloc's"
    return ""


def _file(mapping: Mapping) -> tuple[int, int]:
    return mapping.dev, mapping.inode


def _is_arena(mapping: Mapping, behind: Mapping | None) -> bool:
    """Whether it begins where an arena does, and the rest of one is reserved behind it."""
    if not is_anonymous(mapping) or mapping.start % _ARENA or behind is None:
        return False
    reserved = behind.perms == "---p" and not behind.inode and behind.start == mapping.end
    return reserved and behind.end >= mapping.start + _ARENA > mapping.end


def pieced_together(rows: Sequence[Row], size: int, mark: str = "") -> list[tuple[int, int]]:
    """Neighbouring private mappings that together have a size: one block, of which parts have
    another protection or other flags.

    Args:
        rows: all mappings of a process, in order of address.
        size: bytes.
        mark: a flag that the first and the last have, unless flags were not asked for.

    Returns:
        The first and the last address, exclusive, of each.
    """
    ends: dict[int, tuple[int, int]] = {}  # by address: the run of neighbours, the last mapping
    runs: list[int] = []
    for number, (each, _) in enumerate(rows):
        goes_on = number > 0 and _continues(rows[number - 1][0], each)
        runs.append(runs[-1] if goes_on else number)
        ends[each.end] = runs[-1], number
    found = []
    for number, (each, flags) in enumerate(rows):
        run, last = ends.get(each.start + size, (-1, -1))
        is_block = run == runs[number] and last > number
        if is_block and _may_be_end(each, flags, mark) and _may_be_end(*rows[last], mark):
            found.append((each.start, each.start + size))
    return found


def _may_be_end(mapping: Mapping, flags: Sequence[str], mark: str) -> bool:
    if not mapping.is_writable or mapping.is_shared or "x" in mapping.perms:
        return False
    return not mark or not flags or mark in flags


def _continues(last: Mapping, each: Mapping) -> bool:
    if each.start != last.end or each.is_shared or "x" in each.perms:
        return False
    if last.is_anonymous:
        return each.is_anonymous and each.path == last.path
    return _file(each) == _file(last) and each.offset == last.offset + last.size
