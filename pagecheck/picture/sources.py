"""Memories to make pictures of: what a scan finds, a snapshot's directory, a folder of bitmaps.

Directories are not scanned: a snapshot's manifest and the files of `pagecheck scan --out` say which
pages are zero. Danger: both may be anybody's. Decision: what is read is checked as far as it has
checksums, and counted anew from the bitmaps.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import Counts, RamBlock, Region, is_vm_source
from pagecheck.picture.memory import Memory, of_bitmap, of_report, spans_of
from pagecheck.picture.states import PAGES
from pagecheck.printable import printable
from pagecheck.report.bitmap_files import KINDS
from pagecheck.report.ledger import REPORT, REPORT_BYTES_MAX, entry_of, listed, read_regular
from pagecheck.report.report import BlockReport, Report
from pagecheck.shm.mounts import may_stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.report.ledger import Files
    from pagecheck.snapshot.values import Snapshot

T = TypeVar("T")
ANSWER_S: Final = 2.0
REGIONS_MAX: Final = 4096  # a machine has some ten; a manifest or a report may have any number
ADDRESSES: Final = 1 << 64
_HINT: Final = "a hint: the RAM may have changed meanwhile"


def is_directory(source: str) -> bool:
    """Whether a source is a directory, which is read, not scanned."""
    if is_vm_source(source) or source.startswith(("fd:", "shm:")):
        return False
    try:
        return stat.S_ISDIR(stat_soon(source).st_mode)
    except (OSError, ValueError):
        return False  # whoever opens it says why it cannot be opened


def stat_soon(path: str) -> os.stat_result:
    """The status of what a path leads to.

    Raises:
        OSError: there is nothing, or its file system does not answer within `ANSWER_S`.
    """
    if may_stall(path) is None:
        return os.stat(path)
    found: list[os.stat_result | OSError] = []

    def ask() -> None:
        try:
            found.append(os.stat(path))
        except OSError as error:
            found.append(error)

    asking = threading.Thread(target=ask, name="pagecheck-stat", daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    if not found:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def of_directory(path: str) -> Memory:
    """The memory in a directory that `save` or `scan --out` made.

    Raises:
        SourceError: it is neither, or cannot be read.
        SnapshotError: it is a snapshot that is damaged, or of an unknown version.
    """
    from pagecheck.snapshot import manifest
    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.info import bitmaps
    from pagecheck.snapshot.values import MANIFEST

    with Folder(path) as folder:
        names = folder.names()
        if MANIFEST in names:
            snapshot = manifest.read_in(folder)
            return _of_snapshot(path, snapshot, bitmaps(folder, snapshot))
        if REPORT in names:
            return of_report(_hinted(_report_of(folder.fd, folder.path)))
    raise SourceError(
        f"{printable(path)}: is a directory without {MANIFEST} of a save and without {REPORT} of a "
        "scan; name a snapshot's directory, the folder of --out, or a file of raw RAM"
    )


def of_scan(source: str, scan: Callable[..., Report], options: dict[str, Any]) -> Memory:
    """The memory that a scan finds, with guest-physical addresses where QEMU tells them.

    Args:
        scan: `pagecheck.scan`, or what scans as it does.
        options: its arguments by name.
    """
    if source.startswith("qmp:"):
        with contextlib.suppress(UsageError):  # where addresses are unknown, or for another reason
            return of_report(_hinted(scan(source, gpa=True, **options)))
    return of_report(_hinted(scan(source, **options)))


def _hinted(report: Report) -> Report:
    if report.answer != "live":
        return report
    return report._replace(notes=(f"{report.source}: {_HINT}", *report.notes))


def _of_snapshot(path: str, snapshot: Snapshot, zeros: list[bytes]) -> Memory:
    size = snapshot.page_bytes
    blocks = tuple(
        of_bitmap(block.name, zero, block.size // size)
        for block, zero in zip(snapshot.blocks, zeros, strict=True)
    )
    notes = () if snapshot.exact else (f"{path}: {_HINT}",)
    regions, too_many = _shown(path, [each.regions for each in snapshot.blocks])
    pieces = [[(r.gpa, r.size, r.offset) for r in each] for each in regions]
    if not blocks:
        raise SourceError(f"{printable(path)}: is a snapshot without RAM; there is nothing to show")
    spans = spans_of([each.pages for each in blocks], pieces, size)
    return Memory(path, size, PAGES, blocks, spans, (*notes, *too_many))


def _shown(path: str, regions: list[tuple[T, ...]]) -> tuple[list[tuple[T, ...]], tuple[str, ...]]:
    """The regions of each block, of all none where they are too many; and a note that says so."""
    if sum(map(len, regions)) <= REGIONS_MAX:
        return regions, ()
    note = f"{path}: has too many regions to show; offsets in blocks are shown"
    return [() for _ in regions], (note,)


def _report_of(folder: int, path: str) -> Report:
    """The report that is in the folder of `scan --out`, with its bitmaps.

    Raises:
        SourceError: it is not, or no longer, as it was written.
    """
    text = read_regular(folder, REPORT, REPORT_BYTES_MAX)
    files = None if text is None else listed(text)
    if text is None or files is None:
        raise _changed(path, REPORT)
    document = json.loads(text)
    try:
        blocks = tuple(_block(folder, path, each, files, document) for each in document["blocks"])
        if not blocks or len({each.block.name for each in blocks}) < len(blocks):
            raise _changed(path, REPORT)
        regions, too_many = _shown(path, [each.regions for each in blocks])
        shown = zip(blocks, regions, strict=True)
        return Report(
            path,
            document["answer"],
            document["engine"],
            document["kernel"],
            document["channels"],
            document["page_size"],
            document["seconds"],
            document["startup_seconds"],
            document["bytes_checked"],
            tuple(block._replace(regions=each) for block, each in shown),
            (*map(str, document["notes"]), *too_many),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _changed(path, REPORT) from error


def _block(
    folder: int, path: str, members: dict[str, Any], files: Files, document: dict[str, Any]
) -> BlockReport:
    block = RamBlock(members["name"], members["bytes"], document["page_size"])
    if block.page_size < 1 or block.pages < 1:
        raise ValueError
    size = -(-block.pages // 64) * 8
    zero, normal, unchanged = (
        _words(folder, path, block.name, kind, size, files) if kind in members["files"] else None
        for kind in KINDS
    )
    if zero is None or normal is None:
        raise ValueError
    _require_consistent(block.pages, zero, normal, unchanged or memoryview(b""))
    counts = Counts(**{name: int(members[name]) for name in Counts._fields})
    regions = tuple(_region(each) for each in members["regions"])
    # Offsets of regions are in the file; a report does not say where in it the block begins.
    if any(each.mmap_offset + each.memory_size > block.size for each in regions):
        regions = ()
    return BlockReport(block, counts, zero, normal, unchanged, regions=regions)


def _region(members: dict[str, Any]) -> Region:
    region = Region(**members)
    if not all(type(each) is int and 0 <= each < ADDRESSES for each in region):
        raise ValueError
    return region


def _require_consistent(pages: int, *bitmaps: memoryview) -> None:
    """Raises ValueError where a page is in two bitmaps, or past the block."""
    seen = 0
    for words in bitmaps:
        bits = int.from_bytes(words, "little")
        if bits & seen or bits >> pages:
            raise ValueError
        seen |= bits


def _words(folder: int, path: str, block: str, kind: str, size: int, files: Files) -> memoryview:
    """A bitmap, if it is still the one that the report lists."""
    name = f"{quote(os.fsencode(block), safe='')}.{kind}"
    data = read_regular(folder, name, size)
    if data is None or len(data) != size or entry_of(data) not in files.get(name, ()):
        raise _changed(path, name)
    return memoryview(data)


def _changed(path: str, name: str) -> SourceError:
    where = printable(os.path.join(path, name))
    return SourceError(f"{where}: is not, or no longer, as 'pagecheck scan --out' wrote it")
