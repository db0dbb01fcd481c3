"""A block's RAM laid out in a new file by all CPUs: zero pages are holes, and what was written is
checked once more on the way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pagecheck.errors import SnapshotError, UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.entries import read_entry
from pagecheck.snapshot.expand import write_pages
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.ram_files import open_ram
from pagecheck.snapshot.ram_layout import LaidOut

if TYPE_CHECKING:
    from pagecheck.snapshot.checksums import Progress
    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.ram_target import RamTarget
    from pagecheck.snapshot.values import SnapshotBlock


def lay_out_new(
    folder: Folder,
    block: SnapshotBlock,
    target: RamTarget,
    *,
    page_size: int,
    threads: int | None = None,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> LaidOut:
    """Makes a new file hold what a RAM file holds, raw or compressed.

    Args:
        folder: the snapshot's, which was verified.
        target: of the block's size.
        page_size: bytes.
        threads: at most; None: one per CPU.
        max_rate: bytes of RAM per second that may be read.
        progress: called with (bytes done, bytes in total) now and then.

    Raises:
        UsageError: the target has RAM, or is on hugetlbfs.
        SnapshotError: the snapshot is damaged, or changed since it was verified.
        OutputError: the target cannot be written.
    """
    if not target.is_new or target.is_hugetlbfs:
        raise UsageError(
            f"{printable(target.path)}: RAM of a compressed snapshot is restored to a new file "
            "only, and not on hugetlbfs; choose a path where nothing is"
        )
    zero, digests = read_entry(folder, block.bitmap), read_entry(folder, block.chunks)
    fd, ram = open_ram(folder, block, page_size)
    pace = Pace(max_rate)
    try:
        found = write_pages(
            ram, zero, page_size, target.fd, threads=threads, progress=progress, pace=pace
        )
    except OSError as error:
        raise target.refusal(error) from error
    finally:
        os.close(fd)
    if found != digests:
        raise SnapshotError(
            f"{folder.path_of(block.file)}: block {printable(block.name)} changed after it was "
            "verified"
        )
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
