"""A block's RAM, compressed or not, written to another file: its zero pages stay holes there."""

from __future__ import annotations

import os

from pagecheck.native import _native
from pagecheck.snapshot.checksums import ram_digests

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from pagecheck.snapshot.checksums import Progress
    from pagecheck.snapshot.pace import Pace
    from pagecheck.snapshot.ram_files import RamFile


def write_pages(
    ram: RamFile,
    zero: bytes,
    page_bytes: int,
    fd: int,
    *,
    offset: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> bytes:
    """Writes every page that is not marked as zero, by all CPUs.

    Args:
        ram: of `open_ram`.
        zero: the block's bitmap.
        fd: of a file that reads as zeros where nothing is written.
        offset: where the block begins in it.
        threads: at most; None: one per CPU.
        progress: called in this thread with (bytes done, bytes in total) now and then.
        pace: how fast it may be read.

    Returns:
        The digests of the block's chunks, as they were read: they must be those of the chunks file.

    Raises:
        OSError: the RAM cannot be read, or the file cannot be written.
        SnapshotError: a compressed chunk is damaged.
    """
    pages = ram.size // page_bytes

    def write(at: int, content: bytes | bytearray) -> None:
        page, end = at // page_bytes, at + len(content)
        while page < pages and page * page_bytes < end:
            is_zero, run_end = _native.bits_run(zero, pages, page)
            if not is_zero:
                begin = max(0, page * page_bytes - at)
                stop = min(len(content), run_end * page_bytes - at)
                _write(fd, memoryview(content)[begin:stop], offset + at + begin)
            page = run_end

    return ram_digests(ram, threads=threads, look=write, progress=progress, pace=pace)


def _write(fd: int, data: memoryview, at: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done
