"""RAM files of a snapshot, read chunk by chunk: sparse raw ones, and compressed ones.

Danger: a compressed frame may claim any size, and may be damaged without a decompressor's noticing.
Decision: a frame's bytes are checked before they are decompressed, and its size as well.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from array import array
from heapq import merge
from itertools import accumulate

import xxhash

from pagecheck.errors import EngineError, SnapshotError
from pagecheck.native import _native
from pagecheck.printable import printable
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import DISK, TMPFS
from pagecheck.snapshot.entries import read_entry
from pagecheck.snapshot.values import CHUNK_BYTES, DIGEST_BYTES, FRAME_RECORD_BYTES

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final, NamedTuple, Protocol

    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.values import SnapshotBlock

    Content = bytes | bytearray
else:
    from pagecheck.typed import NamedTuple, Protocol

AHEAD_BYTES: Final = 8 << 20
FRAME_BYTES_MAX: Final = 2 * CHUNK_BYTES  # zstd adds a few KiB to what it cannot compress


class RamFile(Protocol):
    """A RAM file; any thread may read it.

    Attributes:
        size: bytes of RAM.
    """

    size: int

    def with_data(self) -> Iterator[int]:
        """The offset of each chunk that may have a byte that is not zero, in order."""

    def read(self, at: int, buffer: bytearray) -> Content:
        """The content of a chunk.

        Args:
            at: its offset.
            buffer: of this thread, as long as the chunk; it may be used.

        Raises:
            OSError: it cannot be read, or the file became shorter.
            SnapshotError: it is damaged.
        """


class RawRam:
    """A sparse raw file."""

    def __init__(self, fd: int, size: int, zero: Zero | None = None) -> None:
        """Reads from a descriptor, which stays the caller's, and whose file offset is moved.

        Args:
            zero: of a file that was just written: a page that is not marked there is read even
                where the file system says that nothing is.
        """
        self.size = size
        self._fd = fd
        self._zero = zero

    def with_data(self) -> Iterator[int]:
        """As `RamFile.with_data`."""
        if self._zero is None:
            yield from self._found()
            return
        last = -1
        for at in merge(self._found(), _not_marked(self._zero, self.size)):
            if at > last:
                yield at
            last = at

    def _found(self) -> Iterator[int]:
        """Chunks with data; the kernel is told what will be read next."""
        at = ahead = 0
        # The rest of a chunk that has data is not looked up.
        while (data := next(data_of(self._fd, at, self.size), None)) is not None:
            at = data[0] - data[0] % CHUNK_BYTES
            while at < data[1]:
                if at >= ahead:
                    ahead = at + AHEAD_BYTES
                    os.posix_fadvise(self._fd, ahead, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
                yield at
                at += CHUNK_BYTES

    def read(self, at: int, buffer: bytearray) -> Content:
        """As `RamFile.read`."""
        _read_full(self._fd, buffer, at)
        return buffer


class Zero(NamedTuple):
    """Which pages of a block are zero.

    Attributes:
        words: the bitmap, little-endian 64-bit words.
        page_bytes: bytes per page.
    """

    words: bytes | memoryview
    page_bytes: int


class ZstdRam:
    """A file of zstd frames, one for each chunk that is not all zeros."""

    def __init__(
        self, fd: int, block: SnapshotBlock, page_bytes: int, frames: bytes, where: str
    ) -> None:
        """Reads from a descriptor, which stays the caller's.

        Args:
            frames: content of the file of frames.
            where: path of the RAM file, for messages.

        Raises:
            SnapshotError: the frames do not fill the file, or one is too long for a chunk.
            EngineError: zstandard is not installed.
        """
        self.size = block.size
        self._fd = fd
        self._block = block
        self._page_bytes = page_bytes
        self._frames = frames
        self._where = where
        self._zstd = zstd()
        self._of_thread = threading.local()
        records = struct.iter_unpack(f"<Q{DIGEST_BYTES}x", frames)
        lengths = array("Q", (length for (length,) in records))
        if (longest := max(lengths)) > FRAME_BYTES_MAX:
            raise SnapshotError(
                f"{where}: one of its frames has {longest} bytes, and may have {FRAME_BYTES_MAX}"
            )
        self._ends = array("Q", accumulate(lengths))
        if self._ends[-1] != block.file_size:
            raise SnapshotError(
                f"{where}: its frames have {self._ends[-1]} bytes, and it has {block.file_size}"
            )

    def with_data(self) -> Iterator[int]:
        """As `RamFile.with_data`."""
        before = 0
        for number, end in enumerate(self._ends):
            if end > before:
                yield number * CHUNK_BYTES
            before = end

    def read(self, at: int, buffer: bytearray) -> Content:
        """As `RamFile.read`."""
        number = at // CHUNK_BYTES
        begin = self._ends[number - 1] if number else 0
        frame = bytearray(self._ends[number] - begin)
        _read_full(self._fd, frame, begin)
        record = number * FRAME_RECORD_BYTES + 8
        if xxhash.xxh3_128(frame).digest() != self._frames[record : record + DIGEST_BYTES]:
            raise self._damaged(number, "its checksum is not the one of the frame")
        try:
            if self._zstd.frame_content_size(frame) == len(buffer):
                content: bytes = self._decompressor().decompress(frame)
                if len(content) == len(buffer):
                    return content
        except self._zstd.ZstdError as error:
            raise self._damaged(number, printable(str(error))) from error
        raise self._damaged(number, f"it does not hold {len(buffer)} bytes")

    def _decompressor(self) -> Any:
        if not hasattr(self._of_thread, "zstd"):
            self._of_thread.zstd = self._zstd.ZstdDecompressor()
        return self._of_thread.zstd

    def _damaged(self, number: int, why: str) -> SnapshotError:
        page, end = self._page_bytes, min((number + 1) * CHUNK_BYTES, self.size)
        return SnapshotError(
            f"{self._where}: block {printable(self._block.name)} is damaged, or of another "
            f"snapshot: pages {number * CHUNK_BYTES // page} to {(end - 1) // page} of "
            f"{self.size // page}: {why}"
        )


def open_ram(folder: Folder, block: SnapshotBlock, page_bytes: int) -> tuple[int, RamFile]:
    """Opens a block's RAM file, compressed or not.

    Args:
        page_bytes: of the snapshot; messages name pages.

    Returns:
        Its descriptor, which the caller closes, and what reads it.

    Raises:
        SnapshotError: it is missing, not a regular file or too short, or its frames are damaged.
        EngineError: it is compressed, and zstandard is not installed.
    """
    fd = folder.open(block.file)
    try:
        if block.compression is None:
            return fd, RawRam(fd, block.size)
        frames = read_entry(folder, block.compression.frames)
        return fd, ZstdRam(fd, block, page_bytes, frames, folder.path_of(block.file))
    except BaseException:
        os.close(fd)
        raise


def data_of(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each stretch of data between two byte offsets; what is between is a hole and
    zero. On a file system whose holes are not known to be zero everything is data.

    Raises:
        OSError: a lookup failed.
    """
    magic = _native.file_system_magic(fd)
    if magic == TMPFS or magic in DISK:
        return by_seeking(fd, start, end)
    return iter([(start, end)] if start < end else [])


def _not_marked(zero: Zero, size: int) -> Iterator[int]:
    """The offset of each chunk with a page that is not marked as zero, in order."""
    page, pages, chunk = 0, size // zero.page_bytes, 0
    while page < pages:
        is_zero, end = _native.bits_run(zero.words, pages, page)
        if not is_zero:
            first = page * zero.page_bytes // CHUNK_BYTES
            last = (end * zero.page_bytes - 1) // CHUNK_BYTES
            for number in range(max(chunk, first), last + 1):
                yield number * CHUNK_BYTES
            chunk = last + 1
        page = end


def zstd() -> Any:
    """The package zstandard.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise EngineError(
            "compressed snapshots need the package zstandard: pip install 'pagecheck[zstd]'"
        ) from error
    return zstandard


def _read_full(fd: int, buffer: bytearray, at: int) -> None:
    got = os.preadv(fd, [buffer], at)
    while got < len(buffer):
        part = os.pread(fd, len(buffer) - got, at + got)
        if not part:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        buffer[got : got + len(part)] = part
        got += len(part)
