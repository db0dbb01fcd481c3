"""The private guest RAM of a process, where no monitor says where it is.

Danger: a heap, an arena or a translator's buffer may have the size of the RAM. Decision: what the
command line asks for must be there, in exactly that size (see `search.py`); what is told apart by
nothing is not guessed, and the user may name it by hand.
"""

from __future__ import annotations

import re
from typing import Final

from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm.find.considered import Shared
from pagecheck.vmm.find.search import PLUGGED_BYTES, Candidate, PrivateRam, Search
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.process.maps import Mapping, covering
from pagecheck.vmm.process.memory import ProcessMemory

_RANGE: Final = re.compile(r"(?:0x)?([0-9a-f]{1,16})-(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_PAGE: Final = 4096


def private_ram(
    process: ProcessMemory, text: str, said: CommandLine, *, shared: Shared
) -> PrivateRam:
    """Finds the private guest RAM of a process.

    Args:
        process: the VMM.
        text: the source, for messages.
        said: what its command line says, or what is known of the RAM otherwise.
        shared: the process's shared RAM blocks, which were found already.

    Raises:
        SourceError: nothing tells two mappings apart, or its maps cannot be read.
        NoRam: there is no RAM, neither private nor shared.
    """
    mappings = process.mappings()
    if not may_be_private(mappings, said, shared):
        return Search(text, said, [(each, ()) for each in mappings], shared).find()
    return search_of(process, text, said, shared).find()


def search_of(process: ProcessMemory, text: str, said: CommandLine, shared: Shared) -> Search:
    """The search among the mappings of a process; the arguments are those of `private_ram`."""
    rows = [(each.mapping, sorted(each.flags)) for each in process.detailed_mappings()]
    return Search(text, said, rows, shared)


def may_be_private(mappings: list[Mapping], said: CommandLine, shared: Shared) -> bool:
    """Whether some RAM may be private, so that the flags of all mappings are worth the time in
    which the kernel walks the process's page tables."""
    if not shared or not all(each.is_shared for each in said.ram):
        return True
    return any(
        each.is_writable and not each.is_shared and "x" not in each.perms
        for each in mappings
        if each.size >= PLUGGED_BYTES
    )


def is_range(name: str) -> bool:
    """Whether a block's name is a range of addresses, `@START-END`."""
    return name.startswith("@") and _RANGE.fullmatch(name[1:]) is not None


def parse_range(text: str) -> tuple[int, int]:
    """The addresses of `--range START-END`, in hex, END exclusive, as /proc/PID/maps has them.

    Raises:
        UsageError: it is no such range, or not of whole pages.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"range {text!r}: is not START-END in hex; take it from --explain or /proc/PID/maps"
        )
    start, end = int(match[1], 16), int(match[2], 16)
    if start >= end:
        raise UsageError(f"range {text!r}: ends before it begins; END is exclusive")
    if start % _PAGE or end % _PAGE:
        raise UsageError(f"range {text!r}: is not of whole pages of {_PAGE} bytes")
    return start, end


def mapping_of_range(
    text: str, mappings: list[Mapping], addresses: tuple[int, int]
) -> tuple[Candidate, Mapping]:
    """The RAM block that the user names by its addresses.

    Args:
        text: the source, for messages.
        mappings: the process's, in order of address.
        addresses: what `parse_range` gave.

    Returns:
        The block, called "range", and the mapping that it begins in, which may be shared.

    Raises:
        SourceError: the process does not map all of it from one file, or from none, readable.
    """
    start, end = addresses
    inside = f"{text}: range {start:#x}-{end:#x}: "
    touched = [each for each in mappings if each.start < end and each.end > start]
    if not touched:
        raise SourceError(f"{inside}nothing is mapped there; --explain shows what is mapped")
    mapping = covering(mappings, start, end - start)
    if mapping is None:
        parts = ", ".join(f"{each.start:#x}-{each.end:#x} {each.path}".strip() for each in touched)
        raise SourceError(f"{inside}is not inside one mapping; mapped there: {parts[:400]}")
    unreadable = next((each for each in touched if not each.is_readable), None)
    if unreadable is not None:
        raise SourceError(
            f"{inside}{unreadable.start:#x}-{unreadable.end:#x} in it cannot be read "
            f"({unreadable.perms})"
        )
    return Candidate("range", start, end - start, ("named by hand",)), mapping
