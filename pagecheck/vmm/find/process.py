"""The source `pid:PID[:NAME]`: the guest RAM of any VMM's process, shared and private.

Facts: a process id says nothing of guest memory. Decision: shared files are found by name and size
(`shared.py`), private memory by what the command line asks for (`candidates.py`); or the user names
a range of addresses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pagecheck.errors import SourceError
from pagecheck.vmm.find.arrival import may_be_destination
from pagecheck.vmm.find.candidates import is_range, mapping_of_range, parse_range, private_ram
from pagecheck.vmm.find.confidential import refuse_confidential_process
from pagecheck.vmm.find.considered import Shared
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.find.search import Candidate, NoRam, PrivateRam
from pagecheck.vmm.find.shared import (
    Block,
    open_named,
    open_range,
    open_shared,
    shared_blocks,
    shared_ram,
)
from pagecheck.vmm.options.command_line import command_line_of
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.process.memory import Admit, ProcessMemory
from pagecheck.vmm.ram import GuestRam, UnreadableRam, VmRam


def open_process(
    text: str, *, read_swapped: bool = False, admit: Admit | None = None
) -> tuple[VmRam, ProcessMemory]:
    """Opens the guest RAM of `pid:PID`, `pid:PID:NAME` or `pid:PID:@START-END`.

    Args:
        text: the source; with NAME only the block of that name is opened, with addresses what the
            process maps there.
        read_swapped: private pages that are swapped out are read.
        admit: as of a `ProcessMemory`.

    Returns:
        The blocks; where they lie in guest memory is not known. And the process, which is the
        caller's to close.

    Raises:
        SourceError: there is no such process, its memory may not be inspected, it runs a
            confidential VM, or none of its memory is guest RAM that has arrived.
        UsageError: the addresses are not of whole pages.
    """
    pid, name = parsed(text)
    addresses = parse_range(name[1:]) if is_range(name) else None
    process = ProcessMemory(pid, admit)
    with _open(text, process, read_swapped=read_swapped) as opening:
        if addresses is not None:
            opening.range(addresses)
        elif name:
            opening.named(name)
        else:
            opening.all()
        if may_be_destination(process):
            opening.found.notes.append(
                f"{text}: a process id does not show whether RAM has yet to arrive from a "
                "migration, and what has not arrived is reported as zero; qmp: shows it"
            )
    return opening.found, process


def open_process_of(
    text: str,
    pid: int,
    said: CommandLine | None,
    *,
    read_swapped: bool = False,
    admit: Admit | None = None,
) -> tuple[VmRam, ProcessMemory]:
    """As `open_process`, all RAM of a VMM that said of it what there is.

    Args:
        text: the source, for messages.
        pid: the process's.
        said: what the VMM said; None: as its command line says.
    """
    process = ProcessMemory(pid, admit)
    with _open(text, process, said, read_swapped=read_swapped) as opening:
        opening.all()
    return opening.found, process


@contextlib.contextmanager
def _open(
    text: str, process: ProcessMemory, said: CommandLine | None = None, *, read_swapped: bool
) -> Iterator[_Opening]:
    """What opens RAM; the process is verified at the end, and all is closed after an error."""
    found = VmRam([], [], [])
    try:
        yield _Opening(text, process, found, said, read_swapped=read_swapped)
        process.verify()
    except BaseException:
        for ram in found.rams:
            ram.source.close()
        process.close()
        raise


def parsed(text: str) -> tuple[int, str]:
    """The process id and the name of `pid:PID[:NAME]`; the name may be empty.

    Raises:
        SourceError: it is none.
    """
    number, colon, name = text.removeprefix("pid:").partition(":")
    if not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 1 << 31:
        raise SourceError(f"{text}: {number!r} is not a process id; write pid:PID or pid:PID:NAME")
    if colon and not name:
        raise SourceError(f"{text}: no name after the colon; write pid:PID:NAME, or pid:PID alone")
    return int(number), name


class _Opening:
    """Opens RAM of one process.

    Attributes:
        found: what is open by now; whoever has this value closes it after an error.
    """

    def __init__(
        self,
        text: str,
        process: ProcessMemory,
        found: VmRam,
        said: CommandLine | None,
        *,
        read_swapped: bool,
    ) -> None:
        self.found = found
        self._text = text
        self._process = process
        self._read_swapped = read_swapped
        self._said = command_line_of(process)
        if said is not None:
            confidential = said.confidential or self._said.confidential
            self._said = said._replace(confidential=confidential)

    def all(self) -> None:
        """Opens every block that is found.

        Raises:
            SourceError: there is none.
        """
        blocks = self._shared_blocks()
        open_shared(self._text, self._process, blocks, self.found)
        names = {each.source.name for each in self.found.rams}
        names |= {each.name for each in self.found.unreadable}
        there = shared_ram(self._process, blocks)
        shared = {place: name for place, name in there.items() if name in names}
        try:
            private = self._private(shared)
        except NoRam as error:
            raise self._nothing(error) from None
        self.found.unreadable.extend(private.missing)
        self.found.notes.extend(private.notes)
        self._open(private.blocks)
        if not self.found.rams:
            raise SourceError(self.found.unreadable[0].why)

    def named(self, name: str) -> None:
        """Opens the block of a name.

        Raises:
            SourceError: there is none.
        """
        blocks = self._shared_blocks()
        for each in blocks:
            if each.name == name and (ram := open_named(self._text, self._process, each)):
                self.found.rams.append(ram)
                return
        shared = shared_ram(self._process, blocks)
        private: list[Candidate] = []
        with contextlib.suppress(NoRam):
            private = self._private(shared).blocks
        self._open([each for each in private if each.name == name])
        if self.found.unreadable:
            raise SourceError(self.found.unreadable[0].why)
        if not self.found.rams:
            there = [*shared.values(), *(each.name for each in private)]
            raise SourceError(
                f"{self._text}: process {self._process.pid} has no RAM named {name!r}; "
                + (f"there is {', '.join(map(repr, there))}" if there else "it has none at all")
            )

    def range(self, addresses: tuple[int, int]) -> None:
        """Opens what the user calls guest RAM."""
        self._refuse_confidential()
        block, mapping = mapping_of_range(self._text, self._process.mappings(), addresses)
        if mapping.is_shared:
            start = mapping.offset + block.base - mapping.start
            ram = open_range(self._text, self._process, block.name, mapping, start, block.size)
            self.found.rams.append(ram)
            return
        self._open([block])
        if self.found.unreadable:
            raise SourceError(self.found.unreadable[0].why)

    def _shared_blocks(self) -> list[Block]:
        self._refuse_confidential()
        return shared_blocks(self._process.mappings())

    def _refuse_confidential(self) -> None:
        refuse_confidential_process(self._text, self._process, self._said)

    def _open(self, blocks: list[Candidate]) -> None:
        """Opens private blocks; one that cannot be is unreadable."""
        for each in blocks:
            try:
                source = open_private(
                    self._process,
                    f"{self._text}:{each.name}",
                    each.name,
                    each.base,
                    each.size,
                    read_swapped=self._read_swapped,
                )
            except SourceError as error:
                self.found.unreadable.append(UnreadableRam(each.name, each.size, (), str(error)))
                continue
            self.found.rams.append(GuestRam(source, 0, each.size, ()))

    def _private(self, shared: Shared) -> PrivateRam:
        text = self._text
        if not self._said.vmm:
            text = f"{text} ({self._process.comm() or 'no name'})"
        return private_ram(self._process, text, self._said, shared=shared)

    def _nothing(self, error: NoRam) -> SourceError:
        if self.found.unreadable:
            return SourceError(self.found.unreadable[0].why)
        if self.found.notes:
            return SourceError(f"{error}; {self.found.notes[0]}")
        return error
