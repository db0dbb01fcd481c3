"""The source `pid:PID[:NAME]`: guest RAM among what any VMM process maps.

Facts: guest RAM that others can see is a shared, writable mapping of a file of tmpfs, memfd or
hugetlbfs. Danger: private memory looks like RAM and cannot be seen from outside (the file of a
private mapping reads as zero all over). Decision: private memory is named in the error, and never
scanned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.shm.ram import RamSource
from pagecheck.vmm.maps import Mapping, OpenFile, ProcessMemory, is_shared_memory
from pagecheck.vmm.ram import GuestRam

LEAST_BYTES: Final = 16 << 20

# The names that QEMU, Cloud Hypervisor, Firecracker and crosvm give to the files of guest RAM.
_KNOWN: Final = re.compile(
    r"memory-backend-memfd|ch_ram|guest_mem|crosvm_guest|qemu_back_mem\..*|qemu-\d+-shm-.*"
)

QEMU_SHARE: Final = (
    "start QEMU with -object memory-backend-memfd,id=mem0,size=SIZE,share=on "
    "-machine ...,memory-backend=mem0"
)
_SHARE: Final = {
    "cloud-hyperviso": "start Cloud Hypervisor with --memory size=SIZE,shared=on",
    "firecracker": "Firecracker shares its RAM only with a vhost-user drive; scan a snapshot",
}


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


def block_name(path: str) -> str:
    """The file name of a mapped path; a memfd's is the name that it was made with."""
    return os.path.basename(path).removeprefix("memfd:") or path


def shared_blocks(mappings: Iterable[Mapping]) -> list[Block]:
    """Groups the shared, writable mappings of files by file, in order of address.

    Returns:
        One block for each file; the second of a name is called NAME-2, the third NAME-3.
    """
    by_file: dict[tuple[int, int], list[Mapping]] = {}
    for each in sorted(mappings):
        if each.is_shared and each.is_writable and each.inode:
            by_file.setdefault((each.dev, each.inode), []).append(each)
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


def open_process(text: str) -> list[GuestRam]:
    """Opens the guest RAM of `pid:PID[:NAME]`.

    Args:
        text: the source; with NAME only the block of that name is opened.

    Returns:
        The blocks, in order of address; where they lie in guest memory is not known.

    Raises:
        SourceError: there is no such process, its memory may not be looked at, or none of it is
            shared guest RAM.
    """
    pid, name = _parsed(text)
    with ProcessMemory(pid) as process:
        mappings = process.mappings()
        blocks = shared_blocks(mappings)
        rams: list[GuestRam] = []
        try:
            if name:
                rams.append(_open_named(text, process, blocks, name))
            else:
                _open_guest_ram(text, process, blocks, rams)
            if not rams:
                raise _nothing_shared(text, process, mappings)
            process.verify()
        except BaseException:
            for ram in rams:
                ram.source.close()
            raise
    return rams


def _parsed(text: str) -> tuple[int, str]:
    number, colon, name = text.removeprefix("pid:").partition(":")
    if not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 1 << 31:
        raise SourceError(f"{text}: {number!r} is not a process id; write pid:PID or pid:PID:NAME")
    if colon and not name:
        raise SourceError(f"{text}: no name after the colon; write pid:PID:NAME, or pid:PID alone")
    return int(number), name


def _open_named(text: str, process: ProcessMemory, blocks: list[Block], name: str) -> GuestRam:
    """The block that was asked for; other files are opened only to tell what else there is."""
    wanted = [each for each in blocks if each.name == name]
    opened = _open_block(text, process, wanted[0]) if wanted else None
    if opened is not None:
        return opened
    there = [each.name for each in blocks if _is_ram(process, each)]
    raise SourceError(
        f"{text}: process {process.pid} shares no RAM named {name!r}; "
        + (f"there is {', '.join(map(repr, there))}" if there else "it shares none at all")
    )


def _open_guest_ram(
    text: str, process: ProcessMemory, blocks: list[Block], rams: list[GuestRam]
) -> None:
    """Opens what looks like guest RAM; the caller closes what is in `rams` after an error."""
    for each in blocks:
        known = _KNOWN.fullmatch(block_name(each.mapping.path))
        if not known and each.end - each.start < LEAST_BYTES:
            continue
        opened = _open_block(f"{text}:{each.name}", process, each)
        if opened is not None:
            rams.append(opened)


def _open_block(text: str, process: ProcessMemory, block: Block) -> GuestRam | None:
    """The block's file, or None where it is no shared memory."""
    file = process.open_file(block.mapping)
    if file is None:
        return None
    if not is_shared_memory(file.fd):
        os.close(file.fd)
        return None
    return as_ram(text, block.name, file, block.start, block.end - block.start)


def as_ram(text: str, name: str, file: OpenFile, start: int, size: int) -> GuestRam:
    """Takes over an open file as a RAM block that lies nowhere yet.

    Raises:
        SourceError: the file ends before the block; it is closed then.
    """
    source = RamSource(text, name, file.fd, own_description=file.own_description)
    if source.size < start + size:
        had = source.size
        source.close()
        raise SourceError(
            f"{text}: its file has {had:#x} bytes, {start + size:#x} are mapped; it was cut short"
        )
    return GuestRam(source, start, size, ())


def _is_ram(process: ProcessMemory, block: Block) -> bool:
    try:
        opened = _open_block(block.name, process, block)
    except SourceError:
        return False
    if opened is None:
        return False
    opened.source.close()
    return True


def _nothing_shared(text: str, process: ProcessMemory, mappings: list[Mapping]) -> SourceError:
    """Why there is nothing to scan, with the private memory that could be the guest's."""
    way_out = _SHARE.get(process.comm(), QEMU_SHARE)
    large = [
        each
        for each in mappings
        if each.perms == "rw-p" and each.size >= LEAST_BYTES  # not QEMU's own code, which is rwxp
    ]
    files = [each for each in large if each.inode and _is_private_copy(process, each)]
    if files:
        worst = max(files, key=lambda each: each.size)
        return SourceError(
            f"{text}: {worst.path} ({worst.size >> 20} MiB) is mapped privately, so that its file "
            f"does not show guest RAM; {way_out}"
        )
    anonymous = [each for each in large if not each.inode]
    if anonymous:
        worst = max(anonymous, key=lambda each: each.size)
        return SourceError(
            f"{text}: process {process.pid} shares no guest RAM; the {worst.size >> 20} MiB at "
            f"{worst.start:#x} are private memory, which nobody else can see; {way_out}"
        )
    return SourceError(
        f"{text}: process {process.pid} ({process.comm() or 'no name'}) maps no memory of 16 MiB "
        "or more that could be guest RAM; give the pid of the VMM itself"
    )


def _is_private_copy(process: ProcessMemory, mapping: Mapping) -> bool:
    try:
        file = process.open_file(mapping)
    except SourceError:
        return False
    if file is None:
        return False
    try:
        return is_shared_memory(file.fd)
    finally:
        os.close(file.fd)
