"""`--compress zstd`: a RAM file as zstd frames, one for each chunk, so that a reader seeks.

Threads compress; the frames are written in order. It is done when the VM runs again: the sparse
file that was written while it stood is replaced, and its blocks are released as it is read, so
that both together need little more room than the larger of the two.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

import xxhash

from pagecheck.child.signals import signals_held
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.shortage import explain, is_limit, no_thread, refused
from pagecheck.snapshot.checksums import THREADS_MAX
from pagecheck.snapshot.entries import entry, read_entry
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.holes import punch
from pagecheck.snapshot.pace import Pace, wait_until
from pagecheck.snapshot.ram_files import RawRam, Zero, zstd
from pagecheck.snapshot.values import CHUNK_BYTES, FRAME_RECORD_BYTES, Compression

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any, Final

    from pagecheck.snapshot.checksums import Progress
    from pagecheck.snapshot.directory import NewDirectory
    from pagecheck.snapshot.values import SnapshotBlock

LEVEL: Final = 1  # of zstd: higher ones take much longer for little less
AHEAD: Final = 2  # chunks per thread that wait to be written

_ZEROS: Final = bytes(CHUNK_BYTES)


def compress_block(
    directory: NewDirectory,
    block: SnapshotBlock,
    page_bytes: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> SnapshotBlock:
    """Replaces the sparse RAM file of a block, in a directory that is being made.

    Args:
        block: as it would be in the manifest without compression; its checksums stay right.
        page_bytes: of the snapshot.
        threads: at most; None: one per CPU.
        progress: called with (bytes done, bytes in total) now and then.
        pace: how fast it may be read.

    Returns:
        The block as it is in the manifest now.

    Raises:
        OutputError: the disk is full, or a file cannot be read or written.
        EngineError: zstandard is not installed.
        ResourceError: no thread can be started.
    """
    zstd()
    stem = block.file.removesuffix(".ram")
    name, frames_name = f"{block.file}.zst", f"{stem}.frames"
    source = os.open(block.file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd)
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, source)
        target = directory.create(name)
        opened.callback(os.close, target)
        try:
            with Folder(f"/proc/self/fd/{directory.fd}") as folder:
                zero = Zero(read_entry(folder, block.bitmap), page_bytes)
            work = _Work(RawRam(source, block.size, zero), source, target, progress, pace)
            frames = work.run(min(threads or usable_cpus(), THREADS_MAX, block.chunk_count))
        except OSError as error:
            if is_limit(error):
                raise refused(printable(directory.path), error) from error
            why = explain(error) or error.strerror
            raise OutputError(
                f"{printable(directory.path)}/{name}: cannot be compressed: {why}"
            ) from error
    directory.remove(block.file)
    directory.write(frames_name, frames)
    compression = Compression("zstd", work.size, entry(frames_name, frames))
    return block._replace(file=name, bytes_stored=work.size, compression=compression)


class _Work:
    """One file: chunks are compressed by several threads, and written in order by this one.

    Attributes:
        size: bytes that were written.
    """

    def __init__(
        self,
        ram: RawRam,
        source: int,
        target: int,
        progress: Progress | None,
        pace: Pace | None,
    ) -> None:
        self.size = 0
        self._ram = ram
        self._source = source
        self._target = target
        self._progress = progress
        self._pace = pace or Pace(None)
        self._of_thread = threading.local()
        self._frames = bytearray(-(-ram.size // CHUNK_BYTES) * FRAME_RECORD_BYTES)
        self._no_frame = xxhash.xxh3_128(b"").digest()
        self._frames[:] = (bytes(8) + self._no_frame) * (len(self._frames) // FRAME_RECORD_BYTES)

    def run(self, threads: int) -> bytes:
        """Returns the content of the file of frames."""
        from concurrent.futures import ThreadPoolExecutor

        waiting: deque[tuple[int, Future[bytes]]] = deque()
        pool = ThreadPoolExecutor(threads)
        try:
            for at in self._ram.with_data():
                self._wait(at)
                waiting.append((at, _submit(pool, self._compress, at)))
                if len(waiting) >= threads * AHEAD:
                    self._write(*waiting.popleft())
            while waiting:
                self._write(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
        return bytes(self._frames)

    def _wait(self, at: int) -> None:
        may_ns = self._pace.take(min(CHUNK_BYTES, self._ram.size - at))
        while not wait_until(may_ns):
            self._tell(at)

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._ram.size)

    def _compress(self, at: int) -> bytes:
        """The frame of a chunk; empty where it is all zeros."""
        buffer = bytearray(min(CHUNK_BYTES, self._ram.size - at))
        content = self._ram.read(at, buffer)
        if _ZEROS.startswith(content):
            return b""
        frame: bytes = self._compressor().compress(content)
        return frame

    def _compressor(self) -> Any:
        if not hasattr(self._of_thread, "zstd"):
            self._of_thread.zstd = zstd().ZstdCompressor(level=LEVEL)
        return self._of_thread.zstd

    def _write(self, at: int, compressed: Future[bytes]) -> None:
        frame = compressed.result()
        done = 0
        while done < len(frame):
            done += os.write(self._target, frame[done:])
        place = at // CHUNK_BYTES * FRAME_RECORD_BYTES
        record = len(frame).to_bytes(8, "little") + xxhash.xxh3_128(frame).digest()
        self._frames[place : place + FRAME_RECORD_BYTES] = record
        self.size += len(frame)
        punch(self._source, at, min(CHUNK_BYTES, self._ram.size - at))
        self._tell(min(at + CHUNK_BYTES, self._ram.size))


def _submit(pool: Any, work: Any, at: int) -> Any:
    try:
        with signals_held():  # it may start a thread
            return pool.submit(work, at)
    except RuntimeError as error:
        raise no_thread("compression", error) from error
