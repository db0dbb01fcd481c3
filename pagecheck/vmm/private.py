"""Private memory of a VMM, which no other process can see: the messages on it, and what to do.

Danger: it looks like RAM, and the file of a private mapping reads as zero all over. Decision: it is
named and never scanned.
"""

from __future__ import annotations

import os
from typing import Final

from pagecheck.errors import SourceError
from pagecheck.vmm.maps import Mapping
from pagecheck.vmm.memory import ProcessMemory, is_shared_memory

LEAST_BYTES: Final = 16 << 20

QEMU_SHARE: Final = (
    "start QEMU with -object memory-backend-memfd,id=mem0,size=SIZE,share=on "
    "-machine ...,memory-backend=mem0"
)
_SHARE: Final = {
    "cloud-hyperviso": "start Cloud Hypervisor with --memory size=SIZE,shared=on",
    "firecracker": "Firecracker shares its RAM only with a vhost-user drive; scan a snapshot",
}


def private_block(text: str, name: str, size: int, way_out: str = QEMU_SHARE) -> str:
    """The message on a private RAM block of QEMU's."""
    return (
        f"{text}: RAM block {name} ({size >> 20} MiB) is private to QEMU, so that no other process "
        f"can see it; {way_out}"
    )


def nothing_shared(text: str, process: ProcessMemory, mappings: list[Mapping]) -> SourceError:
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
            f"{worst.start:#x} are private memory, which no other process can see; {way_out}"
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
