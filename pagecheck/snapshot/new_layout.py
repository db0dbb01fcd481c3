"""A block's RAM written to a new file while it is verified, by all CPUs: zero pages are holes.

Danger: what is written is not verified yet. Decision: the file has no name until the whole snapshot
is, and is gone where that fails.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pagecheck.native import _native
from pagecheck.snapshot.ram_layout import LaidOut

if TYPE_CHECKING:
    from pagecheck.snapshot.checksums import Look
    from pagecheck.snapshot.ram_target import RamTarget
    from pagecheck.snapshot.values import SnapshotBlock


def page_writer(target: RamTarget, zero: bytes, page_bytes: int) -> Look:
    """What writes the content of chunks, all but the pages that are marked as zero.

    Args:
        target: a new file of the block's size.
        zero: the block's bitmap.

    Returns:
        A function of the byte offset and the content of a chunk. It raises OutputError where the
        file cannot be written.
    """
    pages = target.size // page_bytes

    def write(at: int, content: bytes | bytearray) -> None:
        page, end = at // page_bytes, at + len(content)
        while page < pages and page * page_bytes < end:
            is_zero, run_end = _native.bits_run(zero, pages, page)
            if not is_zero:
                begin = max(0, page * page_bytes - at)
                stop = min(len(content), run_end * page_bytes - at)
                try:
                    _write(target.fd, memoryview(content)[begin:stop], at + begin)
                except OSError as error:
                    raise target.refusal(error) from error
            page = run_end

    return write


def laid_out(block: SnapshotBlock, target: RamTarget) -> LaidOut:
    """What became of a file into which all of a block was written."""
    return LaidOut(
        name=block.name,
        path=target.path,
        size=target.size,
        zero=block.zero,
        normal=block.normal,
        written=block.normal,
        cleared=0,
        allocated=target.allocated,
        is_new=True,
    )


def _write(fd: int, data: memoryview, at: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done
