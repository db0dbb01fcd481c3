"""The content of two memories, compared page by page: what is normal in both may have changed.

Files and snapshots are read once more, only where both have normal pages, 1 MiB at a time. What the
comparison reads is what is there then, not what the scan saw: of a file that is being written the
answer is a hint, as the scan's own is.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import is_vm_source
from pagecheck.picture.memory import Block, Memory, pairs_of
from pagecheck.picture.sources import is_directory
from pagecheck.picture.states import CHANGES, CONTENT
from pagecheck.printable import printable
from pagecheck.snapshot.pace import Pace, wait_until
from pagecheck.snapshot.ram_files import RawRam, open_ram
from pagecheck.snapshot.values import CHUNK_BYTES, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.picture.memory import Bits
    from pagecheck.snapshot.ram_files import RamFile

    Progress = Callable[[int, int], None]

_BOTH = [each.name for each in CHANGES].index("normal_in_both")


class Part(NamedTuple):
    """What has a block's content.

    Attributes:
        start: byte offset of the block.
        size: bytes of the block.
    """

    ram: RamFile
    start: int
    size: int


class Contents:
    """The content of one memory; a context manager that closes its files."""

    def __init__(self, source: str, memory: Memory, start: int = 0) -> None:
        """Opens what has it.

        Args:
            memory: that was found there.
            start: of a file, the offset of its block.

        Raises:
            UsageError: it has no content that stays as it is: a running VM, a folder of bitmaps.
            PagecheckError: it cannot be opened.
        """
        self.source = source
        self._stack = contextlib.ExitStack()
        try:
            parts = self._of_directory() if is_directory(source) else self._of_file(memory, start)
        except BaseException:
            self._stack.close()
            raise
        self._parts = dict(zip(map(id, memory.blocks), parts, strict=True))

    def _of_file(self, memory: Memory, start: int) -> list[Part]:
        from pagecheck.shm.mounts import source_may_stall
        from pagecheck.shm.ram import open_source

        if is_vm_source(self.source):
            raise UsageError(
                f"{printable(self.source)}: a running VM changes while it is read; save it, and "
                "compare the snapshot's content"
            )
        kind = source_may_stall(self.source)
        if kind is not None:
            raise UsageError(
                f"{printable(self.source)}: is on a file system that may never answer ({kind}); "
                "copy it, or compare without --content"
            )
        ram = self._stack.enter_context(open_source(self.source, "raw"))
        size = memory.blocks[0].pages * memory.page_size
        return [Part(RawRam(ram.fd, ram.size), start, size)]

    def _of_directory(self) -> list[Part]:
        from pagecheck.snapshot import manifest
        from pagecheck.snapshot.files import Folder

        folder = self._stack.enter_context(Folder(self.source))
        if MANIFEST not in folder.names():
            raise UsageError(
                f"{printable(self.source)}: has bitmaps and no content; compare without --content"
            )
        snapshot = manifest.read_in(folder)
        parts = []
        for block in snapshot.blocks:
            fd, ram = open_ram(folder, block, snapshot.page_bytes)
            self._stack.callback(os.close, fd)
            parts.append(Part(ram, 0, block.size))
        return parts

    def part_of(self, block: Block) -> Part:
        """What has the content of a block of the memory."""
        return self._parts[id(block)]

    def read(self, part: Part, at: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The next `CHUNK_BYTES` of a block, fewer at its end.

        Raises:
            SourceError: they cannot be read.
        """
        buffer = bytearray(min(CHUNK_BYTES, part.size - at))
        try:
            return np.frombuffer(part.ram.read(part.start + at, buffer), np.uint8)
        except OSError as error:
            why = error.strerror or str(error)
            raise SourceError(f"{printable(self.source)}: cannot be read: {why}") from error

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


def with_content(
    before: tuple[Memory, Contents],
    after: tuple[Memory, Contents],
    changes: Memory,
    *,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> Memory:
    """What became of pages, with what was normal in both parted into the same and changed.

    Args:
        changes: of the two memories, by `memory.compare`.
        max_rate: bytes per second that may be read of each.
        progress: called with (bytes done, bytes in total) now and then.

    Raises:
        PagecheckError: one of them cannot be read.
    """
    pace = Pace(max_rate)
    total = sum(each.pages for each in changes.blocks) * changes.page_size
    done = 0
    blocks = []
    pairs = pairs_of(before[0], after[0])
    for block, (old, new) in zip(changes.blocks, pairs, strict=True):
        both = block.bits[_BOTH]
        assert both is not None
        differs = np.zeros_like(both)
        if old is not None and new is not None:
            parts = (before[1].part_of(old), after[1].part_of(new))
            for at in range(0, min(each.size for each in parts), CHUNK_BYTES):
                if progress is not None:
                    progress(done + at, total)
                if _any(both, at, changes.page_size):
                    may_ns = pace.take(CHUNK_BYTES)
                    while not wait_until(may_ns):
                        if progress is not None:
                            progress(done + at, total)
                    one, other = before[1].read(parts[0], at), after[1].read(parts[1], at)
                    _mark(differs, one, other, at, changes.page_size)
        done += block.pages * changes.page_size
        zero, _both, *others = block.bits
        blocks.append(block._replace(bits=(zero, both & ~differs, both & differs, *others)))
    return changes._replace(states=CONTENT, blocks=tuple(blocks))


def _any(bits: Bits, at: int, page_size: int) -> bool:
    """Whether a page is set that is, in part or as a whole, in the chunk at an offset."""
    first, last = at // page_size, (at + CHUNK_BYTES - 1) // page_size
    if last - first < 8:
        return any(_is_set(bits, page) for page in range(first, last + 1))
    return bool(bits[first // 8 : last // 8 + 1].any())


def _is_set(bits: Bits, page: int) -> bool:
    return page // 8 < len(bits) and bool(bits[page // 8] >> page % 8 & 1)


def _mark(differs: Bits, one: Bits, other: Bits, at: int, page_size: int) -> None:
    """Marks the pages of a chunk that differ; a page may be longer than a chunk."""
    unit = min(page_size, CHUNK_BYTES)
    rows = min(len(one), len(other)) // unit
    unlike = (
        one[: rows * unit].reshape(rows, unit) != other[: rows * unit].reshape(rows, unit)
    ).any(axis=1)
    for row in np.flatnonzero(unlike):
        page = (at + int(row) * unit) // page_size
        differs[page // 8] |= 1 << page % 8
