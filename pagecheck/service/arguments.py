"""A command's arguments: taken one by one, checked by type and range, none left over.

Everything here was sent by a client and nothing of it is trusted.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from pagecheck.errors import LimitError, UsageError
from pagecheck.model import Region
from pagecheck.service.limits import (
    NAME_CHARS,
    PIECES_PER_CHECK,
    RANGES_PER_CHECK,
    REGIONS_PER_BLOCK,
)

_U64 = 1 << 64
_MISSING: Any = object()


class Arguments:
    """The members of one JSON object; `done` refuses what is left over."""

    def __init__(self, given: Any, what: str = "arguments") -> None:
        """Raises UsageError unless it is an object."""
        if not isinstance(given, dict):
            raise UsageError(f"{what}: must be a JSON object")
        self._left = dict(given)
        self._what = what

    def _has(self, name: str, default: Any) -> bool:
        """Whether the member is there; a null is, and is of the wrong type.

        Raises:
            UsageError: it is not, and there is no default.
        """
        if name not in self._left and default is _MISSING:
            raise UsageError(f"{self._what}: {name!r} is missing")
        return name in self._left

    def _at(self, name: str) -> str:
        """The member as a message names it."""
        return name if self._what == "arguments" else f"{self._what}.{name}"

    def integer(self, name: str, low: int, high: int, default: Any = _MISSING) -> Any:
        """An integer between two bounds, both included; or the default."""
        if not self._has(name, default):
            return default
        value = self._left.pop(name)
        if type(value) is not int or not low <= value <= high:
            raise UsageError(f"{self._at(name)}: must be an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None) -> float | None:
        """Seconds or another number above 0; or the default."""
        if not self._has(name, default):
            return default
        value = self._left.pop(name)
        if type(value) not in (int, float) or not 0 < value < 1e12 or math.isnan(value):
            raise UsageError(f"{self._at(name)}: must be a number of more than 0")
        return float(value)

    def flag(self, name: str) -> bool:
        """true or false; false where it is missing."""
        value = self._left.pop(name, False)
        if type(value) is not bool:
            raise UsageError(f"{self._at(name)}: must be true or false")
        return value

    def choice(self, name: str, *choices: str) -> str:
        """One of the given strings; the first where it is missing."""
        value = self._left.pop(name, choices[0])
        if value not in choices:
            raise UsageError(f"{self._at(name)}: must be one of {', '.join(choices)}")
        return str(value)

    def text(self, name: str, default: Any = _MISSING, chars: int = NAME_CHARS) -> Any:
        """A printable string of limited length; or the default."""
        if not self._has(name, default):
            return default
        value = self._left.pop(name)
        if not isinstance(value, str) or not 0 < len(value) <= chars or not value.isprintable():
            raise UsageError(
                f"{self._at(name)}: must be a printable string of 1 to {chars} characters"
            )
        return value

    def items(self, name: str, most: int) -> list[Any] | None:
        """A list of at most that many; None where it is missing."""
        if not self._has(name, None):
            return None
        value = self._left.pop(name)
        if not isinstance(value, list) or len(value) > most:
            raise UsageError(f"{self._at(name)}: must be a list of at most {most}")
        return value

    def integers(self, name: str, most: int) -> list[int] | None:
        """A list of 1 to that many positive integers; None where it is missing."""
        found = self.items(name, most)
        if found is not None and not (found and all(type(n) is int and n > 0 for n in found)):
            raise UsageError(f"{self._at(name)}: must be a list of positive integers")
        return found

    def block_numbers(self, name: str, most: int) -> list[int] | None:
        """A list of 1 to that many blocks, by their numbers; None where it is missing."""
        found = self.items(name, most)
        if found is not None and (
            not found or any(type(n) is not int for n in found) or len({*found}) != len(found)
        ):
            raise UsageError(
                f"{self._at(name)}: must be the numbers of one block or more, each once"
            )
        return found

    def inner(self, name: str) -> Arguments | None:
        """The members of an object; None where it is missing."""
        return Arguments(self._left.pop(name), self._at(name)) if self._has(name, None) else None

    def done(self) -> None:
        """Raises UsageError where a member is left that is not known."""
        if self._left:
            unknown = ", ".join(repr(str(name)[:NAME_CHARS]) for name in sorted(self._left)[:5])
            raise UsageError(f"{self._what}: unknown: {unknown}")


def require_fds(command: str, fds: list[int], wanted: int) -> None:
    """Raises UsageError unless exactly so many descriptors came with a command."""
    if len(fds) != wanted:
        raise UsageError(f"{command}: came with {len(fds)} descriptors, needs {wanted}")


def regions(arguments: Arguments) -> tuple[Region, ...]:
    """The member `regions`: where parts of the file lie in guest-physical memory.

    Raises:
        UsageError: they overlap in the guest or in the file, or are not numbers.
    """
    found: list[Region] = []
    for index, each in enumerate(arguments.items("regions", REGIONS_PER_BLOCK) or ()):
        one = Arguments(each, f"regions[{index}]")
        found.append(
            Region(
                one.integer("guest_phys_addr", 0, _U64 - 1),
                one.integer("memory_size", 1, _U64 - 1),
                one.integer("userspace_addr", 0, _U64 - 1, 0),
                one.integer("mmap_offset", 0, _U64 - 1),
            )
        )
        if found[-1].guest_phys_addr + found[-1].memory_size > _U64:
            raise UsageError(f"regions[{index}]: ends past the last address")
        one.done()
    for field in ("guest_phys_addr", "mmap_offset"):
        ordered = sorted((getattr(each, field), each.memory_size) for each in found)
        for (begin, size), (following, _size) in itertools.pairwise(ordered):
            if begin + size > following:
                raise UsageError(f"regions: overlap at {field} {following:#x}")
    return tuple(found)


def page_ranges(
    arguments: Arguments, page_size: int, start: int, known: tuple[Region, ...]
) -> list[tuple[int, int]] | None:
    """The member `ranges`, as (first page, number of pages) of the block.

    Args:
        page_size: of the block, in bytes.
        start: byte offset in the file of the block's page 0.
        known: the block's regions, for ranges of guest-physical addresses.

    Raises:
        UsageError: a range is not a multiple of the page size, or outside every region.
        LimitError: guest-physical ranges cross too many regions.
    """
    given = arguments.items("ranges", RANGES_PER_CHECK)
    if given is None:
        return None
    found: list[tuple[int, int]] = []
    for index, each in enumerate(given):
        what = f"ranges[{index}]"
        one = Arguments(each, what)
        gpa = one.integer("gpa", 0, _U64 - 1, None)
        if gpa is None:
            found.append((one.integer("first", 0, _U64), one.integer("count", 1, _U64)))
        else:
            found += _from_guest(what, gpa, one.integer("size", 1, _U64), page_size, start, known)
        if len(found) > PIECES_PER_CHECK:
            raise LimitError(f"ranges: more than {PIECES_PER_CHECK} pieces of regions")
        one.done()
    return found


def _from_guest(
    what: str, gpa: int, size: int, page_size: int, start: int, known: tuple[Region, ...]
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    covered = 0
    for region in known:
        begin = max(gpa, region.guest_phys_addr)
        end = min(gpa + size, region.guest_phys_addr + region.memory_size)
        if begin >= end:
            continue
        offset = begin - region.guest_phys_addr + region.mmap_offset - start
        if offset % page_size or (end - begin) % page_size:
            raise UsageError(f"{what}: {gpa:#x}+{size:#x}: not whole pages of {page_size} bytes")
        found.append((offset // page_size, (end - begin) // page_size))
        covered += end - begin
    if covered != size:
        raise UsageError(f"{what}: {gpa:#x}+{size:#x}: not inside the block's regions")
    return found
