"""The private guest RAM of a process, where no monitor says where it is.

Danger: a heap, an arena or a translator's buffer may have the size of the RAM. Decision: what the
command line asks for must be there, in exactly that size (see `search.py`); what is told apart by
nothing is not guessed, and the user may name it by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm.command_line import command_line_of
from pagecheck.vmm.considered import Considered, Shared
from pagecheck.vmm.maps import Mapping, covering
from pagecheck.vmm.memory import ProcessMemory
from pagecheck.vmm.ram_options import CommandLine
from pagecheck.vmm.search import Candidate, PrivateRam, Search

_RANGE: Final = re.compile(r"(?:0x)?([0-9a-f]{1,16})-(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_PAGE: Final = 4096


def private_ram(
    process: ProcessMemory,
    text: str,
    said: CommandLine | None = None,
    *,
    shared: Shared,
    explain: Callable[[list[Considered]], None] | None = None,
) -> PrivateRam:
    """Finds the private guest RAM of a process.

    Args:
        process: the VMM.
        text: the source, for messages.
        said: what is known of the RAM, where that is not from the process's command line.
        shared: the process's shared RAM blocks, which were found already.
        explain: is given all mappings that were considered, before any error.

    Raises:
        SourceError: nothing tells two mappings apart, or there is no RAM, neither private nor
            shared; or its maps cannot be read.
    """
    said = command_line_of(process) if said is None else said
    search = Search(
        text,
        said,
        [(each.mapping, sorted(each.flags)) for each in process.detailed_mappings()],
        shared,
    )
    try:
        return search.find()
    finally:
        if explain is not None:
            explain(search.seen)


def parse_range(text: str) -> tuple[int, int]:
    """The addresses of `--range START-END`, in hex, END exclusive, as /proc/PID/maps has them.

    Raises:
        UsageError: it is no such range, or not of whole pages.
    """
    match = _RANGE.fullmatch(text.strip())
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
