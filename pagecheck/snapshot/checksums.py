"""Checksums of a RAM file: XXH3-128 of each chunk.

Facts: xxhash releases the interpreter's lock while it computes, and so does a read. A mapping would
save a copy, but a file that becomes shorter, or a bad disk, ends a process that maps it. A hole
reads as zeros. Decision: threads read chunk after chunk into buffers of their own, from
neighbouring places, so that the kernel's read-ahead sees one pass; a chunk without data is not
read; nothing is dropped from the page cache, which the snapshot's clones share.
"""

from __future__ import annotations

import threading

import xxhash

from pagecheck.child.signals import signals_held
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.shortage import no_thread
from pagecheck.snapshot.pace import Pace, wait_until
from pagecheck.snapshot.ram_files import RawRam
from pagecheck.snapshot.values import CHUNK_BYTES

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pagecheck.snapshot.ram_files import RamFile, Zero

    Progress = Callable[[int, int], None]
    Look = Callable[[int, bytes | bytearray], None]

THREADS_MAX: Final = 32


def chunk_digests(
    fd: int,
    size: int,
    *,
    zero: Zero | None = None,
    threads: int | None = None,
    look: Look | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> bytes:
    """The digests of a sparse file's chunks, 16 bytes each: the content of a chunks file.

    Args:
        fd: of the RAM file; its file offset is moved.
        size: bytes of it.
        zero: of a file that was just written, as of `RawRam`.
        threads: at most; None: one per CPU.
        look: called by any thread with the byte offset and the content of each chunk that has data;
            it does not keep the buffer.
        progress: called in this thread with (bytes done, bytes in total) now and then.
        pace: how fast it may be read.

    Raises:
        OSError: it cannot be read, or became shorter.
        ResourceError: no thread can be started.
    """
    return ram_digests(
        RawRam(fd, size, zero), threads=threads, look=look, progress=progress, pace=pace
    )


def ram_digests(
    ram: RamFile,
    *,
    threads: int | None = None,
    look: Look | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> bytes:
    """As `chunk_digests`, of a RAM file that may be compressed.

    Raises:
        SnapshotError: a compressed chunk is damaged.
    """
    return _Pass(ram, look, progress, pace or Pace(None)).run(threads)


def zero_digests(size: int) -> bytes:
    """The digests of `size` bytes of zeros."""
    whole, rest = divmod(size, CHUNK_BYTES)
    digests = xxhash.xxh3_128(bytes(CHUNK_BYTES)).digest() * whole
    return digests + (xxhash.xxh3_128(bytes(rest)).digest() if rest else b"")


class _Pass:
    """One pass over a file by several threads, of which the caller's is one."""

    def __init__(
        self, ram: RamFile, look: Look | None, progress: Progress | None, pace: Pace
    ) -> None:
        self._ram = ram
        self._size = size = ram.size
        self._look = look
        self._progress = progress
        self._pace = pace
        self._digests = bytearray(zero_digests(size))
        self._chunks = ram.with_data()
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
            at = None if self._error is not None else next(self._chunks, None)
            self._done = self._done if at is None else at
            return at

    def _do(self, at: int, buffer: bytearray) -> None:
        if self._size - at < len(buffer):
            del buffer[self._size - at :]
        content = self._ram.read(at, buffer)
        digest = xxhash.xxh3_128(content).digest()
        place = at // CHUNK_BYTES * len(digest)
        self._digests[place : place + len(digest)] = digest
        if self._look is not None:
            self._look(at, content)


def _start(thread: threading.Thread) -> None:
    try:
        with signals_held():  # an exception in the middle becomes a RuntimeError
            thread.start()
    except RuntimeError as error:
        raise no_thread("checksums", error) from error
