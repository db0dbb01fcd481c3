"""What a save writes beside the RAM: digests, bitmaps, the devices' state, the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pagecheck._version import __version__
from pagecheck.snapshot import checksums, manifest
from pagecheck.snapshot.entries import entry
from pagecheck.snapshot.ram_files import Zero
from pagecheck.snapshot.values import (
    MANIFEST,
    Disk,
    FileEntry,
    GuestRange,
    Machine,
    Snapshot,
    SnapshotBlock,
)

if TYPE_CHECKING:
    from pagecheck.coordinator.scan import Progress, ScanResult
    from pagecheck.snapshot.copying import Copying, RamFile, Watch
    from pagecheck.snapshot.directory import NewDirectory

STATE: Final = "state"


def now_text() -> str:
    """This moment, as a manifest says it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_entry(directory: NewDirectory, name: str, data: bytes | memoryview) -> FileEntry:
    """Writes a file of that content, and returns what the manifest says of it."""
    directory.write(name, data)
    return entry(name, data)


def write_blocks(
    directory: NewDirectory, copying: Copying, watch: Watch
) -> tuple[SnapshotBlock, ...]:
    """Reads the RAM files back for their checksums, and writes what goes with them.

    Args:
        watch: called with the bytes of RAM that are done.
    """
    done = 0
    blocks = []
    for each, result in zip(copying.files, copying.results, strict=True):

        def progress(now: int, _size: int = 0, before: int = done) -> None:
            watch(before + now)

        blocks.append(_write_block(directory, each, result, progress))
        done += each.block.ram.size
    return tuple(blocks)


def _write_block(
    directory: NewDirectory, each: RamFile, result: ScanResult, progress: Progress
) -> SnapshotBlock:
    ram, counts, source = each.block.ram, result.report.counts, each.found.source
    stem = each.file.removesuffix(".ram")
    digests = checksums.chunk_digests(
        each.fd, ram.size, zero=Zero(result.report.zero, ram.page_size), progress=progress
    )
    regions = (
        GuestRange(r.guest_phys_addr, r.memory_size, r.mmap_offset - ram.start)
        for r in each.found.regions
    )
    return SnapshotBlock(
        name=ram.name,
        size=ram.size,
        file=each.file,
        bytes_stored=counts.normal * ram.page_size,
        regions=tuple(regions),
        backend="private" if not source.is_file else "shared" if each.of_vm else "file",
        zero=counts.zero,
        normal=counts.normal,
        bitmap=write_entry(directory, f"{stem}.zero", result.report.zero),
        chunks=write_entry(directory, f"{stem}.chunks", digests),
    )


def write_manifest(
    directory: NewDirectory,
    blocks: tuple[SnapshotBlock, ...],
    *,
    created: str,
    exact: bool,
    page_size: int,
    machine: Machine | None = None,
    state: bytes | None = None,
    disks: tuple[Disk, ...] = (),
    pause: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Writes the devices' state, if there is one, and the manifest."""
    snapshot = Snapshot(
        made_by=f"pagecheck {__version__}",
        created=created,
        exact=exact,
        page_bytes=page_size,
        machine=machine,
        blocks=blocks,
        state=None if state is None else write_entry(directory, STATE, state),
        disks=disks,
        pause=pause,
    )
    directory.write(MANIFEST, manifest.render(snapshot))
    return snapshot
