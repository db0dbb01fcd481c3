"""A save by a service: the service stops the VM and copies its RAM to files of ours, and we make a
snapshot of it.

The directory is ours from the beginning, and so are its files, of which the service gets
descriptors only. Danger: what it answers is believed for as long as the snapshot lives. Decision:
all of it is checked by type, range and count; the files are read back for their checksums; and a
page that is called zero is made a hole where the file has something else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck.errors import OutputError, PeerError, SnapshotError, SourceError, UsageError
from pagecheck.model import Counts, is_vm_source
from pagecheck.native import _native
from pagecheck.printable import printable
from pagecheck.service.protocol import FDS_PER_LINE, close_all
from pagecheck.service.replies import SIZE_MAX, Members, listed_of, pause_of, words_at
from pagecheck.shm import mounts
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.received import copy_of, sealed_size
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.holes import punch
from pagecheck.snapshot.manifest import disk_of, is_time, machine_of
from pagecheck.snapshot.members import Members as ManifestMembers
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.ram_files import zstd
from pagecheck.snapshot.room import STATE_BYTES, require_room
from pagecheck.snapshot.save import require_socket, unreadable
from pagecheck.snapshot.save_report import SavedBlock, SaveReport
from pagecheck.snapshot.saving import create_ram_files, not_written
from pagecheck.snapshot.writing import (
    Written,
    bytes_stored,
    finish_blocks,
    write_manifest,
)

if TYPE_CHECKING:
    from pagecheck.model import Pause
    from pagecheck.service.replies import Attached, Checked, RemoteBlock
    from pagecheck.service.requests import Requests
    from pagecheck.snapshot.copying import Watch
    from pagecheck.snapshot.values import Disk, Machine, Snapshot
    from pagecheck.snapshot.vm_parts import Compress

STATE_BYTES_MAX: Final = 8 << 30
WHAT: Final = "the answer to save"

Progress = Callable[[int, int], None]


class Asked(NamedTuple):
    """What is asked for; `Client.save` documents each."""

    source: str
    directory: str
    live: bool
    disks: str | None
    compress: Compress | None
    max_pause: float | None
    max_rate: int | None
    page_size: int
    progress: Progress | None


class Taken(NamedTuple):
    """What the service answered.

    Attributes:
        blocks: counts, zero bitmap, and whether the RAM is shared, by block.
    """

    blocks: tuple[tuple[Counts, memoryview, bool], ...]
    created: str
    engine: str
    kernel: str | None
    channels: int
    machine: Machine
    state: bytes | None
    disks: tuple[Disk, ...]
    pause: Pause
    pause_without_live: float | None
    notes: tuple[str, ...]


def require_possible(requests: Requests, asked: Asked) -> None:
    """Refuses what no service saves, before it is attached.

    Raises:
        PagecheckError: the subclass says whose fault it is.
    """
    source, path = asked.source, asked.directory
    if not is_vm_source(source):
        raise UsageError(f"{source}: is a file, of which a snapshot is made without a service")
    require_socket(source)
    if asked.compress is not None:
        zstd()
    requests.require_capability("save")
    if (kind := mounts.may_stall(path)) is not None:
        raise OutputError(
            f"{path}: is on {kind}, which the service does not write to; save without it"
        )


def save_blocks(
    requests: Requests, blocks: Attached, asked: Asked, look: Callable[[], Checked]
) -> SaveReport:
    """Saves a VM that is attached.

    Args:
        look: checks the blocks; called where it is not certain that the snapshot fits.
    """
    path = asked.directory
    _require_all(blocks)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(NewDirectory(path))
        rams = [block.ram for block in blocks]
        require_room(path, made.fd, rams, STATE_BYTES, lambda: _normal_bytes(look()))
        work = _Work(asked, blocks, made, create_ram_files(stack, made, rams))
        return work.finish(work.copy(requests))


def _require_all(blocks: Attached) -> None:
    if blocks.unreadable:
        raise unreadable(blocks.unreadable[0].why)
    if len(blocks) > FDS_PER_LINE:
        raise SourceError(
            f"the VM has {len(blocks)} RAM blocks, and a service saves {FDS_PER_LINE} at most; "
            "save without it"
        )


def _normal_bytes(found: Checked) -> int:
    counts = [(each.counts.pages - each.counts.zero, each.block) for each in found.blocks]
    return sum(pages * block.page_size for pages, block in counts)


class _Work:
    """One save, from attached blocks to the directory under its name."""

    def __init__(
        self,
        asked: Asked,
        blocks: Attached,
        made: NewDirectory,
        files: Sequence[tuple[str, int]],
    ) -> None:
        """Nothing is done yet; everything stays the caller's."""
        self._asked = asked
        self._blocks = blocks
        self._made = made
        self._files = files
        self._size = sum(block.ram.size for block in blocks)
        self._copied = self._size * (2 if asked.live else 1)
        self._done = self._copied  # before the pass that is next, once all is copied
        self._total = self._copied + self._size * (1 if asked.compress is None else 2)

    def copy(self, requests: Requests) -> Taken:
        """Has the service copy the RAM."""
        asked = self._asked
        arguments: dict[str, Any] = {"blocks": [block.number for block in self._blocks]}
        optional = {"disks": asked.disks, "max_pause": asked.max_pause, "max_rate": asked.max_rate}
        arguments |= {name: value for name, value in optional.items() if value is not None}
        arguments |= {"live": asked.live, "progress": asked.progress is not None}
        reply, fds = requests.execute(
            "save",
            arguments,
            [fd for _name, fd in self._files],
            timeout=None,
            on_event=None if asked.progress is None else self._on_event,
        )
        try:
            return taken_of(reply, fds, self._blocks)
        finally:
            close_all(fds)

    def _on_event(self, event: dict[str, Any]) -> None:
        given = Members(event, "the progress of save")
        total = given.integer("bytes", 1, SIZE_MAX)  # more passes than we know of, perhaps
        self._show(given.integer("done", 0, total) * self._copied // total)

    def _show(self, done: int) -> None:
        if self._asked.progress is not None:
            self._asked.progress(done, self._total)

    def _watch(self) -> Watch:
        """Tells how far one more pass over the RAM files is."""
        before = self._done
        self._done += self._size
        return lambda done: self._show(before + done)

    def finish(self, taken: Taken) -> SaveReport:
        """Writes all that goes with the RAM files."""
        asked, made, written = self._asked, self._made, self._written(taken)
        try:
            for each in written:
                for first, end in data_of_zero_pages(
                    each.fd, each.zero, each.ram.pages, asked.page_size
                ):
                    punch(each.fd, first, end - first)
            snapshot = write_manifest(
                made,
                finish_blocks(
                    made,
                    written,
                    page_size=asked.page_size,
                    compress=asked.compress,
                    watch=self._watch,
                    pace=Pace(asked.max_rate),
                ),
                created=taken.created,
                exact=True,
                page_size=asked.page_size,
                machine=taken.machine,
                state=taken.state,
                disks=taken.disks,
                pause=taken.pause._asdict(),
            )
        except OSError as error:
            raise not_written(made.path, error) from error
        made.finish()
        return self._report(taken, snapshot)

    def _written(self, taken: Taken) -> list[Written]:
        return [
            Written(
                block.ram,
                block.regions,
                name,
                fd,
                "shared" if shared else "private",
                counts,
                zero,
            )
            for block, (name, fd), (counts, zero, shared) in zip(
                self._blocks, self._files, taken.blocks, strict=True
            )
        ]

    def _report(self, taken: Taken, snapshot: Snapshot) -> SaveReport:
        asked = self._asked
        return SaveReport(
            source=asked.source,
            directory=self._made.path,
            exact=True,
            engine=taken.engine,
            kernel=taken.kernel,
            channels=taken.channels,
            page_size=asked.page_size,
            seconds=0.0,
            blocks=tuple(
                SavedBlock(block.ram, counts, each.file, each.bytes_stored)
                for block, (counts, _zero, _shared), each in zip(
                    self._blocks, taken.blocks, snapshot.blocks, strict=True
                )
            ),
            pause=taken.pause,
            pause_without_live=taken.pause_without_live,
            bytes_stored=bytes_stored(snapshot),
            state_bytes=len(taken.state or b""),
            overlays=tuple(
                (disk.device, disk.overlay) for disk in taken.disks if disk.overlay is not None
            ),
            notes=tuple(dict.fromkeys((*self._blocks.notes, *taken.notes))),
        )


def data_of_zero_pages(
    fd: int, zero: memoryview, pages: int, page_size: int
) -> Iterator[tuple[int, int]]:
    """Where a file has data in pages that are zero: byte offset and end of each stretch.

    Args:
        zero: bitmap of the zero pages.
    """
    for begin, end in by_seeking(fd, 0, pages * page_size):
        page = begin // page_size
        while page * page_size < end:
            is_zero, run_end = _native.bits_run(zero, pages, page)
            if is_zero:
                yield page * page_size, min(run_end * page_size, -(-end // page_size) * page_size)
            page = run_end


def taken_of(reply: dict[str, Any], fds: list[int], blocks: Sequence[RemoteBlock]) -> Taken:
    """The answer to `save`.

    Args:
        fds: what came with it; they stay the caller's.

    Raises:
        PeerError: it is invalid.
    """
    given = Members(reply, WHAT)
    state_bytes = None
    if reply.get("state_bytes") is not None:
        state_bytes = given.integer("state_bytes", 1, STATE_BYTES_MAX)
    if len(fds) != (1 if state_bytes is None else 2):
        raise given.wrong(f"came with {len(fds)} descriptors")
    listed = listed_of(given, blocks)
    size = sealed_size(fds[0], f"the bitmaps of {WHAT}")
    found = [_block(each, fds[0], size, block) for each, block in zip(listed, blocks, strict=True)]
    without = None
    if reply.get("pause_without_live") is not None:
        without = given.seconds("pause_without_live")
    pause = pause_of(given.object("pause"))
    if not pause.stood_still:
        raise given.wrong("the VM did not stay stopped")
    created = given.text("created")
    if not is_time(created):
        raise given.wrong("created is not a time")
    return Taken(
        blocks=tuple(found),
        created=created,
        engine=given.text("engine"),
        kernel=given.text_or_none("kernel"),
        channels=given.integer("channels", 0, (1 << 32) - 1),
        machine=_of_manifest(reply.get("machine"), "machine", machine_of),
        state=None if state_bytes is None else _state(fds[1], state_bytes),
        disks=tuple(
            _of_manifest(each, f"disks[{number}]", disk_of)
            for number, each in enumerate(_list(given, reply.get("disks")))
        ),
        pause=pause,
        pause_without_live=without,
        notes=given.texts("notes"),
    )


def _list(given: Members, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise given.wrong("disks is not a list")
    return value


def _block(
    given: Members, fd: int, size: int, block: RemoteBlock
) -> tuple[Counts, memoryview, bool]:
    """What was copied of one block."""
    pages = block.ram.pages
    zero = words_at(given.object("zero"), fd, size, pages, f"the bitmaps of {WHAT}")
    named = given.object("counts")
    counts = Counts(**{name: named.integer(name, 0, pages) for name in Counts._fields})
    if (
        (counts.pages, counts.undecided, counts.unchanged) != (pages, 0, 0)
        or counts.zero + counts.normal != pages
        or counts.hole > counts.zero
        or _native.bits_count(zero, pages) != counts.zero
    ):
        raise named.wrong("is not what the bitmap says, or not of all pages")
    return counts, zero, given.flag("shared")


def _state(fd: int, size: int) -> bytes:
    what = f"the devices' state of {WHAT}"
    if sealed_size(fd, what) != size:
        raise PeerError(f"{what}: is not of {size} bytes")
    return bytes(copy_of(fd, 0, size, what))


def _of_manifest(value: Any, name: str, make: Callable[[ManifestMembers], Any]) -> Any:
    """A value that goes into the manifest, checked as a reader of it checks it."""
    try:
        return make(ManifestMembers(value, f"{WHAT}: {name}"))
    except SnapshotError as error:
        raise PeerError(printable(str(error))) from error
