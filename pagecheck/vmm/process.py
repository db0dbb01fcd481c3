"""The source `pid:PID[:NAME]`: guest RAM among what any VMM process maps.

Facts: guest RAM that others can see is a shared mapping of a file of tmpfs, memfd or hugetlbfs,
writable unless it is a read-only NVDIMM. Danger: one that is guest RAM and cannot be opened must
not be missing in silence; one that is not must hide nothing. Decision: what looks like RAM and
cannot be opened is undecided, a file on disk is left out with a note unless it is named. Private
memory cannot be distinguished from the VMM's own; see `private.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.shm.ram import RamSource
from pagecheck.vmm.arrival import may_be_destination, missing_files
from pagecheck.vmm.maps import Mapping
from pagecheck.vmm.memory import Admit, ProcessMemory, is_shared_memory
from pagecheck.vmm.private import LEAST_BYTES, open_private
from pagecheck.vmm.proof import OpenFile, file_system_type
from pagecheck.vmm.ram import GuestRam, UnreadableRam, VmRam

# The names that QEMU, Cloud Hypervisor, Firecracker and crosvm give to the files of guest RAM.
_KNOWN: Final = re.compile(
    r"memory-backend-memfd|ch_ram|guest_mem|crosvm_guest|qemu_back_mem\..*|qemu-\d+-shm-.*"
)


class Block(NamedTuple):
    """Mappings of one file, seen as one RAM block.

    Attributes:
        name: the file's name, made unique in the process.
        mapping: one of its mappings.
        start: the least file offset that is mapped.
        end: the greatest, exclusive.
    """

    name: str
    mapping: Mapping
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def block_name(path: str) -> str:
    """The file name of a mapped path; a memfd's is the name that it was made with."""
    return os.path.basename(path).removeprefix("memfd:") or path


def shared_blocks(mappings: Iterable[Mapping]) -> list[Block]:
    """Groups the shared, readable mappings of files by file, in order of address.

    Returns:
        One block for each file; the second of a name is called NAME-2, the third NAME-3.
    """
    by_file: dict[tuple[int, int, str], list[Mapping]] = {}
    for each in sorted(mappings):
        if each.is_shared and each.is_readable and each.inode:
            # Numbers repeat on btrfs; a path alone may be that of a file which was replaced.
            by_file.setdefault((each.dev, each.inode, each.path), []).append(each)
    blocks: list[Block] = []
    taken: set[str] = set()
    for group in by_file.values():
        name = plain = block_name(group[0].path)
        number = 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        start = min(each.offset for each in group)
        end = max(each.offset + each.size for each in group)
        blocks.append(Block(name, group[0], start, end))
    return blocks


def open_process(
    text: str, *, read_swapped: bool = False, admit: Admit | None = None
) -> tuple[VmRam, ProcessMemory]:
    """Opens the guest RAM of `pid:PID[:NAME]`.

    Args:
        text: the source; with NAME only the block of that name is opened.
        read_swapped: private pages that are swapped out are read.
        admit: as of a `ProcessMemory`.

    Returns:
        The blocks, in order of address; where they lie in guest memory is not known. And the
        process, which is the caller's to close.

    Raises:
        SourceError: there is no such process, its memory may not be inspected, or none of it is
            shared guest RAM that has arrived.
    """
    pid, name = _parsed(text)
    process = ProcessMemory(pid, admit)
    found = VmRam([], [], [])
    try:
        mappings = process.mappings()
        blocks = shared_blocks(mappings)
        if name:
            found.rams.append(_open_named(text, process, blocks, name))
        else:
            _open_guest_ram(text, process, blocks, found)
        if not found.rams and not found.unreadable:
            _open_private(text, process, mappings, found, read_swapped=read_swapped)
        if not found.rams:
            raise _nothing_found(text, process, found)
        if may_be_destination(process):
            found.notes.append(
                f"{text}: a process id does not show whether RAM has yet to arrive from a "
                "migration, and what has not arrived is reported as zero; qmp: shows it"
            )
        process.verify()
    except BaseException:
        for ram in found.rams:
            ram.source.close()
        process.close()
        raise
    return found, process


def _parsed(text: str) -> tuple[int, str]:
    number, colon, name = text.removeprefix("pid:").partition(":")
    if not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 1 << 31:
        raise SourceError(f"{text}: {number!r} is not a process id; write pid:PID or pid:PID:NAME")
    if colon and not name:
        raise SourceError(f"{text}: no name after the colon; write pid:PID:NAME, or pid:PID alone")
    return int(number), name


def _open_named(text: str, process: ProcessMemory, blocks: list[Block], name: str) -> GuestRam:
    """The block that was asked for; other files are opened only to list what else there is."""
    for each in blocks:
        if each.name != name:
            continue
        if _place(each) in missing_files(process):
            raise SourceError(_has_not_arrived(text))
        if (opened := _open_block(text, process, each)) is not None:
            if opened.source.is_known_file_system:  # on disk, too: the user says that it is RAM
                return opened
            opened.source.close()
    there = [each.name for each in blocks if _is_ram(process, each)]
    raise SourceError(
        f"{text}: process {process.pid} shares no RAM named {name!r}; "
        + (f"there is {', '.join(map(repr, there))}" if there else "it shares none at all")
    )


def _open_guest_ram(text: str, process: ProcessMemory, blocks: list[Block], found: VmRam) -> None:
    """Opens what looks like guest RAM; the caller closes what is in `found` after an error."""
    missing = missing_files(process)
    for each in blocks:
        known = _KNOWN.fullmatch(block_name(each.mapping.path)) is not None
        if not known and each.size < LEAST_BYTES:
            continue
        if _place(each) in missing:
            why = _has_not_arrived(f"{text}:{each.name}")
            found.unreadable.append(UnreadableRam(each.name, each.size, (), why))
            continue
        try:
            opened = _open_block(f"{text}:{each.name}", process, each)
        except SourceError as error:
            if known or _looks_like_memory(process, each):
                found.unreadable.append(UnreadableRam(each.name, each.size, (), str(error)))
            else:
                _leave_out(text, each, found, f"cannot be opened ({error})")
            continue
        if opened is None:
            continue
        if is_shared_memory(opened.source.fd):
            found.rams.append(opened)
        else:
            opened.source.close()
            _leave_out(text, each, found, "is a file on disk")


def _place(block: Block) -> tuple[int, int]:
    return block.mapping.dev, block.mapping.inode


def _has_not_arrived(text: str) -> str:
    return (
        f"{text}: pages of it have yet to arrive (userfaultfd): memory that has not arrived is not "
        "zero"
    )


def _leave_out(text: str, block: Block, found: VmRam, why: str) -> None:
    if block.mapping.is_writable:  # what is only read is a program's data
        found.notes.append(
            f"{text}: {block.name} ({block.size >> 20} MiB), which is mapped, {why} and is left "
            f"out; give {text}:{block.name} if it is guest RAM"
        )


def _looks_like_memory(process: ProcessMemory, block: Block) -> bool:
    """Whether a file that could not be opened is of a kind that guest RAM is made of: tmpfs,
    hugetlbfs, or mounted nowhere, as a memfd is."""
    kind = file_system_type(block.mapping.dev, process.folder)
    return kind in (None, "tmpfs", "hugetlbfs")


def _open_block(text: str, process: ProcessMemory, block: Block) -> GuestRam | None:
    """The block's file, or None where it is not a regular file."""
    file = process.open_file(block.mapping)
    return None if file is None else as_ram(text, block.name, file, block.start, block.size)


def as_ram(text: str, name: str, file: OpenFile, start: int, size: int) -> GuestRam:
    """Takes over an open file as a RAM block without regions.

    Raises:
        SourceError: the file ends before the block; it is closed then.
    """
    source = RamSource(text, name, file.fd, own_description=file.own_description)
    if source.size < start + size:
        had = source.size
        source.close()
        raise SourceError(
            f"{text}: its file has {had:#x} bytes, {start + size:#x} are mapped; it was truncated"
        )
    return GuestRam(source, start, size, ())


def _is_ram(process: ProcessMemory, block: Block) -> bool:
    try:
        opened = _open_block(block.name, process, block)
    except SourceError:
        return False
    if opened is None:
        return False
    with opened.source:
        return is_shared_memory(opened.source.fd)


def _open_private(
    text: str,
    process: ProcessMemory,
    mappings: list[Mapping],
    found: VmRam,
    *,
    read_swapped: bool,
) -> None:
    """Opens the one private mapping that can be guest RAM."""
    large = [each for each in mappings if each.perms == "rw-p" and each.size >= LEAST_BYTES]
    if len(large) > 1:
        places = ", ".join(f"{each.start:#x}-{each.end:#x}" for each in large)
        raise SourceError(f"{text}: guest RAM may be any of the private mappings {places}")
    for each in large:
        ram = open_private(process, text, "ram", each.start, each.size, read_swapped=read_swapped)
        found.rams.append(GuestRam(ram, 0, each.size, ()))


def _nothing_found(text: str, process: ProcessMemory, found: VmRam) -> SourceError:
    if found.unreadable:
        return SourceError(found.unreadable[0].why)
    if found.notes:
        return SourceError(f"{text}: shares no memory that must be guest RAM; {found.notes[0]}")
    return SourceError(
        f"{text}: process {process.pid} ({process.comm() or 'no name'}) maps no memory of 16 MiB "
        "or more that could be guest RAM; give the pid of the VMM itself"
    )
