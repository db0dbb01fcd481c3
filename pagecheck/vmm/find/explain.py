"""Why each mapping of a process is guest RAM or not."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm.find.candidates import is_range, parse_range, search_of
from pagecheck.vmm.find.confidential import refuse_confidential_process
from pagecheck.vmm.find.considered import RAM, Considered
from pagecheck.vmm.find.process import parsed
from pagecheck.vmm.find.shared import shared_blocks, shared_ram
from pagecheck.vmm.options.command_line import command_line_of
from pagecheck.vmm.process.memory import ProcessMemory


class ExplainedMapping(NamedTuple):
    """A mapping of a process, and whether it is guest RAM.

    Attributes:
        start: address of its first byte.
        end: address after its last byte.
        perms: such as "rw-p".
        path: the file behind it, or what the kernel calls it; may be empty.
        verdict: "RAM", "not RAM", or "unknown", which a scan leaves out.
        why: the reason.
    """

    start: int
    end: int
    perms: str
    path: str
    verdict: str
    why: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def explain(source: str | os.PathLike[str]) -> list[ExplainedMapping]:
    """Says why each mapping of a VMM's process is, or is not, taken for guest RAM by a scan. No
    file is opened and no memory is read.

    Args:
        source: `pid:PID`, `pid:PID:NAME` or `pid:PID:@START-END`.

    Returns:
        The mappings that are large enough, in order of address.

    Raises:
        SourceError: there is no such process, its maps cannot be read, or it runs a confidential
            VM.
        UsageError: the source is not a process.
    """
    text = os.fspath(source)
    if not text.startswith("pid:"):
        raise UsageError(
            f"{text}: only what is taken from a process's mappings is explained; give pid:PID"
        )
    pid, name = parsed(text)
    with ProcessMemory(pid) as process:
        said = command_line_of(process)
        refuse_confidential_process(text, process, said)
        shared = shared_ram(process, shared_blocks(process.mappings()))
        search = search_of(process, text, said, shared)
        with contextlib.suppress(SourceError):  # the scan raises it; here each mapping is explained
            search.find()
    found = search.seen
    if is_range(name):
        start, end = parse_range(name[1:])
        found = [_by_hand(each, start, end) for each in found]
    return [ExplainedMapping(*_shown(each), each.verdict, each.why) for each in found]


def _by_hand(each: Considered, start: int, end: int) -> Considered:
    if each.mapping.start < end and each.mapping.end > start:
        return each._replace(verdict=RAM, why=f"named by hand; else: {each.why or each.verdict}")
    return each


def _shown(each: Considered) -> tuple[int, int, str, str]:
    mapping = each.mapping
    return mapping.start, mapping.end, mapping.perms, mapping.path
