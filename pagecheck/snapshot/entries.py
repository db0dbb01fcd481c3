"""Small files of a snapshot, whose bytes one checksum in the manifest covers."""

from __future__ import annotations

import xxhash

from pagecheck.errors import SnapshotError
from pagecheck.snapshot.values import ALGORITHM, FileEntry

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from pagecheck.snapshot.files import Folder


def checksum(data: bytes | memoryview) -> str:
    """The checksum of bytes as a manifest has it: "xxh3-128:" and 32 digits."""
    return f"{ALGORITHM}:{xxhash.xxh3_128(data).hexdigest()}"


def entry(file: str, data: bytes | memoryview) -> FileEntry:
    """The entry of a file with these bytes."""
    return FileEntry(file, memoryview(data).nbytes, checksum(data))


def read_entry(folder: Folder, entry: FileEntry) -> bytes:
    """The content of a file.

    Raises:
        SnapshotError: it is not what the manifest says.
    """
    data = folder.read(entry.file, entry.size)
    if len(data) != entry.size or checksum(data) != entry.checksum:
        raise SnapshotError(
            f"{folder.path_of(entry.file)}: is damaged, or of another snapshot: its checksum is "
            "not the one in the manifest"
        )
    return data
