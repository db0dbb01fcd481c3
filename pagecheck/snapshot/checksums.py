"""Checksums of a snapshot's files: XXH3-128 of small files, and of each chunk of a RAM file.

Facts: xxhash releases the interpreter's lock while it computes, and so does a read. A mapping would
save a copy, but a file that becomes shorter, or a bad disk, ends a process that maps it. A hole
reads as zeros. Decision: threads read chunk after chunk into buffers of their own, from
neighbouring places, so that the kernel's read-ahead sees one pass; a chunk without data is not
read; nothing is dropped from the page cache, which the snapshot's clones share.
"""

from __future__ import annotations

import errno
import os
import threading

import xxhash

from pagecheck.coordinator.settings import usable_cpus
from pagecheck.native import _native
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import DISK, TMPFS
from pagecheck.shortage import no_thread
from pagecheck.snapshot.pace import Pace, wait_until
from pagecheck.snapshot.values import ALGORITHM, CHUNK_BYTES, FileEntry

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    Progress = Callable[[int, int], None]
    Look = Callable[[int, bytearray], None]

THREADS_MAX: Final = 32
AHEAD_BYTES: Final = 8 << 20


def checksum(data: bytes | memoryview) -> str:
    """The checksum of bytes as a manifest has it: "xxh3-128:" and 32 digits."""
    return f"{ALGORITHM}:{xxhash.xxh3_128(data).hexdigest()}"


def entry(file: str, data: bytes | memoryview) -> FileEntry:
    """The entry of a file with these bytes."""
    return FileEntry(file, memoryview(data).nbytes, checksum(data))


def chunk_digests(
    fd: int,
    size: int,
    *,
    threads: int | None = None,
    look: Look | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> bytes:
    """The digests of a sparse file's chunks, 16 bytes each: the content of a chunks file.

    Args:
        fd: of the RAM file; its file offset is moved.
        size: bytes of it.
        threads: at most; None: one per CPU.
        look: called by any thread with the byte offset and the content of each chunk that has data;
            it does not keep the buffer.
        progress: called in this thread with (bytes done, bytes in total) now and then.
        pace: how fast it may be read.

    Raises:
        OSError: it cannot be read, or became shorter.
        ResourceError: no thread can be started.
    """
    return _Pass(fd, size, look, progress, pace or Pace(None)).run(threads)


def zero_digests(size: int) -> bytes:
    """The digests of `size` bytes of zeros."""
    whole, rest = divmod(size, CHUNK_BYTES)
    digests = xxhash.xxh3_128(bytes(CHUNK_BYTES)).digest() * whole
    return digests + (xxhash.xxh3_128(bytes(rest)).digest() if rest else b"")


class _Pass:
    """One pass over a file by several threads, of which the caller's is one."""

    def __init__(
        self, fd: int, size: int, look: Look | None, progress: Progress | None, pace: Pace
    ) -> None:
        self._fd = fd
        self._size = size
        self._look = look
        self._progress = progress
        self._pace = pace
        self._digests = bytearray(zero_digests(size))
        self._chunks = self._with_data()
        self._lock = threading.Lock()
        self._done = 0
        self._error: BaseException | None = None

    def run(self, threads: int | None) -> bytes:
        most = threads or min(usable_cpus(), THREADS_MAX)
        count = min(most, -(-self._size // CHUNK_BYTES))
        others = [threading.Thread(target=self._work, daemon=True) for _ in range(count - 1)]
        try:
            for each in others:
                _start(each)
            self._work(self._progress)
        except BaseException as error:
            self._error = error
        for each in others:
            if each.ident is not None:
                each.join()
        if self._error is not None:
            raise self._error
        if self._progress is not None:
            self._progress(self._size, self._size)
        return bytes(self._digests)

    def _work(self, progress: Progress | None = None) -> None:
        buffer = bytearray(min(CHUNK_BYTES, self._size))
        try:
            while (at := self._next()) is not None:
                may_ns = self._pace.take(len(buffer))
                while not wait_until(may_ns) and self._error is None:
                    if progress is not None:
                        progress(self._done, self._size)
                self._do(at, buffer)
                if progress is not None:
                    progress(self._done, self._size)
        except BaseException as error:
            self._error = error

    def _next(self) -> int | None:
        with self._lock:
            return None if self._error is not None else next(self._chunks, None)

    def _do(self, at: int, buffer: bytearray) -> None:
        if self._size - at < len(buffer):
            del buffer[self._size - at :]
        if os.preadv(self._fd, [buffer], at) < len(buffer):
            read_rest(self._fd, buffer, at)
        digest = xxhash.xxh3_128(buffer).digest()
        place = at // CHUNK_BYTES * len(digest)
        self._digests[place : place + len(digest)] = digest
        if self._look is not None:
            self._look(at, buffer)

    def _with_data(self) -> Iterator[int]:
        """The offset of each chunk that has data, in order."""
        at = ahead = 0
        for begin, end in data_of(self._fd, self._size):
            at = max(at, begin - begin % CHUNK_BYTES)
            while at < end:
                if at >= ahead:
                    ahead = at + AHEAD_BYTES
                    os.posix_fadvise(self._fd, ahead, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
                self._done = at
                yield at
                at += CHUNK_BYTES


def data_of(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each stretch of data; what is between is a hole and zero. On a file system
    whose holes are not known to be zero everything is data.

    Raises:
        OSError: a lookup failed.
    """
    magic = _native.file_system_magic(fd)
    known = magic == TMPFS or magic in DISK
    return by_seeking(fd, 0, size) if known else iter([(0, size)])


def read_rest(fd: int, buffer: bytearray, at: int) -> None:
    """Fills a buffer from a file, where one read returned less.

    Raises:
        OSError: the file ends before.
    """
    view = memoryview(buffer)
    done = 0
    while done < len(buffer):
        with view[done:] as left:
            got = os.preadv(fd, [left], at + done)
        if got == 0:
            view.release()
            raise OSError(errno.EIO, "the file became shorter while it was read")
        done += got
    view.release()


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread("checksums", error) from error
