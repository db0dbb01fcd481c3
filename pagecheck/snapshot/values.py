"""What a snapshot's manifest says, as immutable values; docs/snapshot-format.md has the members.

Each value keeps the members that this version does not know in `other`, so that reading and writing
a manifest of a later minor version loses nothing.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final, Literal, NamedTuple
else:
    from pagecheck.typed import Literal, NamedTuple

FORMAT: Final = "pagecheck-snapshot"
VERSION: Final = "1.0"
MANIFEST: Final = "manifest.json"
ALGORITHM: Final = "xxh3-128"
CHUNK_BYTES: Final = 1 << 20
DIGEST_BYTES: Final = 16
FRAME_RECORD_BYTES: Final = 8 + DIGEST_BYTES
NAME_BYTES_MAX: Final = 200
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)

Backend = Literal["private", "shared", "file"]
DiskKept = Literal["none", "overlay", "quit"]


class FileEntry(NamedTuple):
    """A file of the snapshot whose bytes one checksum covers.

    Attributes:
        file: its name in the directory.
        size: bytes.
        checksum: "xxh3-128:" and 32 hexadecimal digits.
    """

    file: str
    size: int
    checksum: str
    other: Mapping[str, Any] = {}


class GuestRange(NamedTuple):
    """Where a part of a block lies in the guest's physical memory.

    Attributes:
        gpa: guest-physical address of its first byte.
        size: bytes.
        offset: byte offset of its first byte in the block.
    """

    gpa: int
    size: int
    offset: int
    other: Mapping[str, Any] = {}


class Compression(NamedTuple):
    """How a RAM file is compressed.

    Attributes:
        algorithm: "zstd": one frame for each chunk that is not all zeros.
        size: bytes of the compressed file.
        frames: file of 24 bytes per chunk: the frame's length (64 bits, little-endian; 0: the
            chunk is all zeros and has no frame) and the checksum of the frame.
    """

    algorithm: str
    size: int
    frames: FileEntry
    other: Mapping[str, Any] = {}


class SnapshotBlock(NamedTuple):
    """One RAM block of a snapshot.

    Attributes:
        name: as the VMM names it.
        size: bytes, a multiple of the snapshot's page_bytes.
        file: name of the RAM file.
        bytes_stored: bytes of the pages that were written to it.
        regions: where the block lies in the guest's physical memory; empty where unknown.
        backend: what the RAM was: private memory of the VMM, shared memory, or a file at rest.
        zero: pages whose bits are set in the bitmap; every byte of them is zero.
        normal: all others.
        bitmap: file of the zero bitmap, little-endian 64-bit words.
        chunks: file of the checksums, 16 bytes per chunk of `CHUNK_BYTES` of the block.
        compression: None for a sparse raw RAM file.
    """

    name: str
    size: int
    file: str
    bytes_stored: int
    regions: tuple[GuestRange, ...]
    backend: Backend
    zero: int
    normal: int
    bitmap: FileEntry
    chunks: FileEntry
    compression: Compression | None = None
    other: Mapping[str, Any] = {}

    @property
    def chunk_count(self) -> int:
        """Number of chunks, the last one shorter where the size is not a multiple."""
        return -(-self.size // CHUNK_BYTES)

    @property
    def file_size(self) -> int:
        """Bytes of the RAM file."""
        return self.size if self.compression is None else self.compression.size


class Machine(NamedTuple):
    """The VM that was saved.

    Attributes:
        vmm: such as "qemu".
        vmm_version: as it reports it; None where unknown, as of the next three.
        machine_type: such as "pc-i440fx-7.2".
        arch: such as "x86_64".
        vcpus: number of virtual CPUs.
        command_line: that the VMM was started with.
    """

    vmm: str
    vmm_version: str | None
    machine_type: str | None
    arch: str | None
    vcpus: int | None
    command_line: tuple[str, ...]
    other: Mapping[str, Any] = {}


class Disk(NamedTuple):
    """A disk of the VM at the moment of the snapshot.

    Attributes:
        device: the name that the VMM has for it.
        path: the file that holds its content of that moment; None where it has none.
        format: of that file; None where unknown.
        writable: whether the guest could write to it.
        kept: how its content is kept: "overlay", what was written since went to another file;
            "quit", the VM ended with the save; "none", nobody does.
        overlay: the file that the VM writes to since; None without one.
    """

    device: str
    path: str | None
    format: str | None
    writable: bool
    kept: DiskKept
    overlay: str | None = None
    other: Mapping[str, Any] = {}


class Snapshot(NamedTuple):
    """A snapshot's manifest.

    Attributes:
        made_by: program and version.
        created: UTC, as of RFC 3339.
        exact: whether the RAM provably did not change while it was saved: the guest was paused, or
            the file at rest.
        page_bytes: bytes per page, a power of two of at least 4096.
        machine: None where memory files were saved.
        blocks: in the VMM's order.
        state: the devices' state, a migration stream of QEMU's; None where memory files were saved.
        disks: every disk of the VM.
        pause: report of the pause, numbers and texts by name; None without one.
        version: of the format.
    """

    made_by: str
    created: str
    exact: bool
    page_bytes: int
    machine: Machine | None
    blocks: tuple[SnapshotBlock, ...]
    state: FileEntry | None
    disks: tuple[Disk, ...] = ()
    pause: Mapping[str, Any] | None = None
    version: str = VERSION
    other: Mapping[str, Any] = {}

    def files(self) -> dict[str, int]:
        """The size of every file that belongs to the snapshot, by name, the manifest aside."""
        found = [(self.state.file, self.state.size)] if self.state else []
        for block in self.blocks:
            found.append((block.file, block.file_size))
            entries = [block.bitmap, block.chunks]
            entries += [block.compression.frames] if block.compression else []
            found += [(each.file, each.size) for each in entries]
        return dict(found)


def bitmap_bytes(pages: int) -> int:
    """Size of the bitmap file of a block of that many pages."""
    return -(-pages // 64) * 8


def file_stems(blocks: Sequence[str]) -> list[str]:
    """What the names of the blocks' files begin with, one for each block and no two the same:
    "BLOCK.ram", "BLOCK.zero", "BLOCK.chunks".

    Args:
        blocks: the blocks' names, which may hold any character.
    """
    taken: set[str] = set()
    stems = []
    for name in blocks:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:150] or "block"
        stem, number = plain, 1
        while stem in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems
