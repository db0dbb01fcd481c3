"""What a save writes beside the RAM: digests, bitmaps, the devices' state, the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck._version import __version__
from pagecheck.errors import SnapshotError, SourceError
from pagecheck.snapshot import checksums, manifest
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.entries import entry
from pagecheck.snapshot.ram_files import Zero
from pagecheck.snapshot.syncing import Syncing
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
    from pagecheck.coordinator.scan import Progress
    from pagecheck.model import Counts, RamBlock, Region
    from pagecheck.snapshot.copying import Copying, Watch
    from pagecheck.snapshot.directory import NewDirectory
    from pagecheck.snapshot.pace import Pace
    from pagecheck.snapshot.values import Backend
    from pagecheck.snapshot.vm_parts import Compress

STATE: Final = "state"


def now_text() -> str:
    """This moment, as a manifest says it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_entry(directory: NewDirectory, name: str, data: bytes | memoryview) -> FileEntry:
    """Writes a file of that content, and returns what the manifest says of it."""
    directory.write(name, data)
    return entry(name, data)


class Written(NamedTuple):
    """A block whose RAM file is complete.

    Attributes:
        regions: where it lies in guest-physical memory.
        file: name of its RAM file.
        fd: of that, open for reading.
        counts: of its pages; none is undecided.
        zero: bitmap of its zero pages.
    """

    ram: RamBlock
    regions: tuple[Region, ...]
    file: str
    fd: int
    backend: Backend
    counts: Counts
    zero: memoryview


def written(copying: Copying) -> list[Written]:
    """What was copied, as values."""
    found = []
    for each, result in zip(copying.files, copying.results, strict=True):
        backend: Backend = "shared" if each.of_vm else "file"
        if not each.found.source.is_file:
            backend = "private"
        ram, report = each.block.ram, result.report
        place = (each.found.regions, each.file, each.fd)
        found.append(Written(ram, *place, backend, report.counts, report.zero))
    return found


def finish_blocks(
    directory: NewDirectory,
    blocks: Sequence[Written],
    *,
    page_size: int,
    compress: Compress | None,
    watch: Callable[[], Watch],
    pace: Pace,
) -> tuple[SnapshotBlock, ...]:
    """Does all that is done to RAM files after the copy: checksums, the disk or a compression.

    Args:
        watch: makes what is called with the bytes of RAM that are done, for one pass over them.
        pace: how fast they may be read.
    """
    if compress is not None:
        found = write_blocks(directory, blocks, watch(), pace)
        return compressed(directory, found, page_size, watch(), pace)
    syncing = Syncing([each.fd for each in blocks])
    found = write_blocks(directory, blocks, watch(), pace)
    syncing.wait()
    return found


def write_blocks(
    directory: NewDirectory, blocks: Sequence[Written], watch: Watch, pace: Pace
) -> tuple[SnapshotBlock, ...]:
    """Reads the RAM files back for their checksums, and writes what goes with them.

    Args:
        watch: called with the bytes of RAM that are done.
        pace: how fast they may be read.
    """
    done = 0
    found = []
    for each in blocks:
        found.append(_write_block(directory, each, _part_of(watch, done), pace))
        done += each.ram.size
    return tuple(found)


def _part_of(watch: Watch, before: int) -> Progress:
    return lambda now, _size: watch(before + now)


def _write_block(
    directory: NewDirectory, each: Written, progress: Progress, pace: Pace
) -> SnapshotBlock:
    ram, counts, stem = each.ram, each.counts, each.file.removesuffix(".ram")
    digests = checksums.chunk_digests(
        each.fd, ram.size, zero=Zero(each.zero, ram.page_size), progress=progress, pace=pace
    )
    regions = (
        GuestRange(r.guest_phys_addr, r.memory_size, r.mmap_offset - ram.start)
        for r in each.regions
    )
    return SnapshotBlock(
        name=ram.name,
        size=ram.size,
        file=each.file,
        bytes_stored=counts.normal * ram.page_size,
        regions=tuple(regions),
        backend=each.backend,
        zero=counts.zero,
        normal=counts.normal,
        bitmap=write_entry(directory, f"{stem}.zero", each.zero),
        chunks=write_entry(directory, f"{stem}.chunks", digests),
    )


def compressed(
    directory: NewDirectory,
    blocks: Sequence[SnapshotBlock],
    page_size: int,
    watch: Watch,
    pace: Pace,
) -> tuple[SnapshotBlock, ...]:
    """Compresses the blocks' RAM files.

    Args:
        watch: called with the bytes of RAM that are done.
        pace: how fast they may be read.
    """
    done = 0
    found = []
    for block in blocks:
        progress = _part_of(watch, done)
        found.append(compress_block(directory, block, page_size, progress=progress, pace=pace))
        done += block.size
    return tuple(found)


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
    """Writes the devices' state, if there is one, and the manifest.

    Raises:
        SourceError: what the VMM says of its VM is nothing that a manifest may have.
    """
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
    text = manifest.render(snapshot)
    try:
        manifest.parse(text)
    except SnapshotError as error:
        raise SourceError(
            f"{directory.path}: nothing was saved, since a manifest cannot say this of the source: "
            f"{error}"
        ) from error
    directory.write(MANIFEST, text)
    return snapshot


def bytes_stored(snapshot: Snapshot) -> int:
    """Of RAM files the pages that were written; of others all."""
    ram = {block.file: block.bytes_stored for block in snapshot.blocks}
    return sum(ram.get(name, size) for name, size in snapshot.files().items())
