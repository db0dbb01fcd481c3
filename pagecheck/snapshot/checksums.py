"""Checksums of a snapshot's files: XXH3-128 of small files, and of each chunk of a RAM file."""

from __future__ import annotations

from pagecheck.snapshot.values import ALGORITHM, CHUNK_BYTES, FileEntry

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable


def checksum(data: bytes | memoryview) -> str:
    """The checksum of bytes as a manifest has it: "xxh3-128:" and 32 digits."""
    import xxhash

    return f"{ALGORITHM}:{xxhash.xxh3_128_hexdigest(data)}"


def entry(file: str, data: bytes | memoryview) -> FileEntry:
    """The entry of a file with these bytes."""
    return FileEntry(file, memoryview(data).nbytes, checksum(data))


def chunk_digests(
    fd: int, size: int, *, progress: Callable[[int, int], None] | None = None
) -> bytes:
    """The digests of a sparse file's chunks, 16 bytes each: the content of a chunks file.

    Args:
        fd: of the RAM file.
        size: bytes of it.
        progress: called with (bytes done, bytes in total) now and then.

    Raises:
        OSError: it cannot be read, or is shorter.
    """
    import os

    import xxhash

    found = []
    for at in range(0, size, CHUNK_BYTES):
        found.append(xxhash.xxh3_128_digest(os.pread(fd, min(CHUNK_BYTES, size - at), at)))
        if progress is not None:
            progress(min(at + CHUNK_BYTES, size), size)
    return b"".join(found)
