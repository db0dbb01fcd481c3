"""Shared guest RAM among what a process maps.

Facts: guest RAM that others can see is a shared mapping of a file of tmpfs, memfd or hugetlbfs,
writable unless it is a read-only NVDIMM. Danger: one that is guest RAM and cannot be opened must
not be missing in silence; one that is not must hide nothing. Decision: what looks like RAM and
cannot be opened is undecided, a file on disk is left out with a note unless it is named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.shm.ram import RamSource
from pagecheck.vmm.find.arrival import missing_files
from pagecheck.vmm.find.considered import LEAST_BYTES
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import ProcessMemory, is_shared_memory
from pagecheck.vmm.process.proof import OpenFile, file_system_type
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
        is_program: whether a mapping of it is executable: code, or what a translator made.
    """

    name: str
    mapping: Mapping
    start: int
    end: int
    is_program: bool = False

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
        is_program = any("x" in each.perms for each in group)
        blocks.append(Block(name, group[0], start, end, is_program))
    return blocks


def shared_ram(process: ProcessMemory, blocks: Iterable[Block]) -> dict[tuple[int, int], str]:
    """The blocks that look like guest RAM; no file is opened for it.

    Returns:
        Their names, by device and inode as in the process's maps.
    """
    return {
        _place(each): each.name
        for each in blocks
        if (is_known(each) or each.size >= LEAST_BYTES)
        and not each.is_program
        and _looks_like_memory(process, each)
    }


def is_known(block: Block) -> bool:
    """Whether a VMM gives such a name to a file of guest RAM."""
    return _KNOWN.fullmatch(block_name(block.mapping.path)) is not None


def open_named(text: str, process: ProcessMemory, block: Block) -> GuestRam | None:
    """The block that was asked for by its name, on disk, too: the user says that it is RAM.

    Returns:
        None where it cannot be RAM.

    Raises:
        SourceError: it cannot be opened, or it has not arrived.
    """
    if _place(block) in missing_files(process):
        raise SourceError(_has_not_arrived(text))
    if (opened := _open_block(text, process, block)) is not None:
        if opened.source.is_known_file_system:
            return opened
        opened.source.close()
    return None


def open_shared(text: str, process: ProcessMemory, blocks: list[Block], found: VmRam) -> None:
    """Opens what looks like guest RAM; the caller closes what is in `found` after an error."""
    missing = missing_files(process)
    for each in blocks:
        if each.is_program or not (is_known(each) or each.size >= LEAST_BYTES):
            continue
        if _place(each) in missing:
            why = _has_not_arrived(f"{text}:{each.name}")
            found.unreadable.append(UnreadableRam(each.name, each.size, (), why))
            continue
        try:
            opened = _open_block(f"{text}:{each.name}", process, each)
        except SourceError as error:
            if is_known(each) or _looks_like_memory(process, each):
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


def open_range(
    text: str, process: ProcessMemory, name: str, mapping: Mapping, start: int, size: int
) -> GuestRam:
    """A part of a shared mapping that the user names by its addresses.

    Args:
        start: offset of its first byte in the mapping's file.
        size: bytes.

    Raises:
        SourceError: its file cannot be opened, is a device, or has not arrived.
    """
    if (mapping.dev, mapping.inode) in missing_files(process):
        raise SourceError(_has_not_arrived(text))
    file = process.open_file(mapping)
    if file is None:
        raise SourceError(f"{text}: lies in a device: {mapping.path}")
    return as_ram(text, name, file, start, size)


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
