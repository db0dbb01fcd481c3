"""`pagecheck info`: what is in a snapshot, and where its zero pages are."""

from __future__ import annotations

import os

from pagecheck.native import _native
from pagecheck.snapshot import manifest
from pagecheck.snapshot.entries import read_entry, require_memory
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.values import MANIFEST

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.snapshot.values import Snapshot


def info(directory: str | os.PathLike[str]) -> Snapshot:
    """What a snapshot's manifest says. Its other files are not looked at: `verify` checks them.

    Raises:
        SnapshotError: it is not a snapshot, its manifest is damaged, or its version is not known.
    """
    return manifest.read(directory)


def bitmaps(folder: Folder, snapshot: Snapshot) -> list[bytes]:
    """The zero bitmap of each block.

    Raises:
        SnapshotError: one is not what the manifest says.
        ResourceError: there is not enough memory for them.
    """
    require_memory(folder, snapshot)
    return [read_entry(folder, block.bitmap) for block in snapshot.blocks]


def zero_runs(zero: bytes, pages: int, first: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Runs of pages of one kind, in order, from a page to the end, as a bitmap says.

    Args:
        zero: the bitmap, as `bitmaps` reads it.
        pages: of the block.

    Yields:
        (first page, count, whether they are zero).
    """
    at = first
    while at < pages:
        is_zero, end = _native.bits_run(zero, pages, at)
        yield at, end - at, is_zero
        at = end


def bytes_on_disk(folder: Folder, snapshot: Snapshot) -> int:
    """Bytes that the snapshot's files occupy now.

    Raises:
        SnapshotError: one is missing, or not a regular file.
    """
    found = 0
    for name in (MANIFEST, *snapshot.files()):
        fd = folder.open(name)
        found += os.fstat(fd).st_blocks * 512
        os.close(fd)
    return found
