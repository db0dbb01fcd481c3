"""Small files of a snapshot, whose bytes one checksum in the manifest covers."""

from __future__ import annotations

import os

import xxhash

from pagecheck.errors import ResourceError, SnapshotError
from pagecheck.printable import printable
from pagecheck.snapshot.values import ALGORITHM, FileEntry

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.values import Snapshot


def checksum(data: bytes | memoryview) -> str:
    """The checksum of bytes as a manifest has it: "xxh3-128:" and 32 digits."""
    return f"{ALGORITHM}:{xxhash.xxh3_128(data).hexdigest()}"


def entry(file: str, data: bytes | memoryview) -> FileEntry:
    """The entry of a file with these bytes."""
    return FileEntry(file, memoryview(data).nbytes, checksum(data))


def require_memory(folder: Folder, snapshot: Snapshot) -> None:
    """Refuses a snapshot whose small files do not fit into the memory: a sparse file of any length
    takes no room on a disk.

    Raises:
        ResourceError: they do not.
    """
    needed = 0
    for block in snapshot.blocks:
        frames = block.compression.frames.size if block.compression else 0
        needed += block.bitmap.size + 3 * block.chunks.size + 2 * frames
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if needed > most:
        raise ResourceError(
            f"{printable(folder.path)}: its bitmaps and checksums take {needed >> 20} MiB of "
            f"memory, more than half of what this host has ({most >> 19} MiB); use a larger one"
        )


def read_entry(folder: Folder, entry: FileEntry) -> bytes:
    """The content of a file.

    Raises:
        SnapshotError: it is not what the manifest says.
    """
    data = folder.read(entry.file, entry.size)
    _require_same(folder, entry, FileEntry(entry.file, len(data), checksum(data)))
    return data


def check_entry(folder: Folder, entry: FileEntry) -> None:
    """As `read_entry`, of a file that may be too large for the memory: nothing of it is kept."""
    digest, size = xxhash.xxh3_128(), 0
    for piece in folder.pieces(entry.file, entry.size):
        digest.update(piece)
        size += len(piece)
    found = FileEntry(entry.file, size, f"{ALGORITHM}:{digest.hexdigest()}")
    _require_same(folder, entry, found)


def _require_same(folder: Folder, entry: FileEntry, found: FileEntry) -> None:
    if (found.size, found.checksum) != (entry.size, entry.checksum):
        raise SnapshotError(
            f"{folder.path_of(entry.file)}: is damaged, or of another snapshot: its checksum is "
            "not the one in the manifest"
        )
