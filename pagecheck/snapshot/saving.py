"""One save, from the blocks that are open to the directory under its name.

Danger: a VM that is stopped longer than it must be, or for ever; a snapshot that is not of one
moment; half a snapshot. Decision: all that can be done before the stop is done before it, and all
that can wait is done after it; until the VM runs this process touches no disk of the snapshot's
(the workers do), so that one that stalls cannot keep it from ending the pause; the snapshot gets
its name last, and only where the RAM provably did not change while it was copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pagecheck.child.signals import signals_held
from pagecheck.errors import OutputError, PagecheckError, SourceError
from pagecheck.logs import Log
from pagecheck.snapshot.copying import Copying, RamFile, Watch, normal_bytes, pays_to_copy_ahead
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.room import require_room
from pagecheck.snapshot.save_report import SavedBlock, SaveReport
from pagecheck.snapshot.stopped import Stopped
from pagecheck.snapshot.values import file_stems
from pagecheck.snapshot.writing import (
    bytes_stored,
    finish_blocks,
    now_text,
    write_manifest,
    written,
)

if TYPE_CHECKING:
    from pagecheck.coordinator import Coordinator
    from pagecheck.coordinator.scan import Progress
    from pagecheck.model import Pause, RamBlock
    from pagecheck.snapshot.directory import NewDirectory
    from pagecheck.snapshot.values import Snapshot
    from pagecheck.snapshot.vm_parts import Compress, Then, VmParts
    from pagecheck.sources import Opened
    from pagecheck.vmm import Vm

log = Log(__name__)


class Wanted(NamedTuple):
    """How a source is saved; `save` documents most.

    Attributes:
        notify: as `save.listener`.
    """

    live: bool
    then: Then
    max_pause: float
    max_rate: int | None
    compress: Compress | None
    progress: Progress | None
    notify: Callable[[str, Any], None]


class Taking(ABC):
    """RAM that is copied, of a VM in a pause; a subclass says where to."""

    def __init__(self, opened: Opened, where: str, scanner: Coordinator, wanted: Wanted) -> None:
        """Nothing is done yet; everything stays the caller's.

        Args:
            where: the snapshot, as messages name it.
        """
        self._opened = opened
        self._where = where
        self._scanner = scanner
        self._wanted = wanted
        self._left_before = scanner.may_yet_write  # they know nothing of these files
        self._bytes_done = 0
        self._ahead = False  # whether RAM is copied before the pause as well
        self._ahead_s: float | None = None  # what that took where it was asked for
        self._passes_after = 0  # over all bytes, once they are copied

    def prepare(self, stack: contextlib.ExitStack, after: contextlib.ExitStack | None) -> None:
        """Makes the RAM files and attaches the blocks to them.

        Args:
            stack: closes the files.
            after: detaches the blocks; None: they end with their coordinator.

        Raises:
            OutputError: there is no room.
        """
        opened = self._opened
        created = self._create_files(stack)
        if opened.vm is not None:
            self._ahead = self._wanted.live or pays_to_copy_ahead(
                opened.vm, [fd for _, fd in created], opened.blocks, self._wanted.max_rate
            )
        files = []
        for found, (name, fd) in zip(opened.blocks, created, strict=True):
            block = self._scanner.attach(
                found.source,
                page_size=opened.page_size,
                offset=found.ram.start,
                length=found.ram.size,
                access="auto" if self._scanner.engine == "dsa" else "read",
                copy_to=fd,
                copy_update=self._ahead,
            )
            if after is not None:
                after.callback(self._scanner.detach, block)
            files.append(RamFile(found, block, name, fd, opened.vm is not None))
        self._copying = Copying(self._where, self._scanner, files, self._wanted.max_rate)

    def save_vm(self, vm: Vm, parts: VmParts) -> SaveReport:
        """Saves a VM, which runs again when this ends, or has ended where that was wanted.

        Raises:
            PagecheckError: as `save`.
        """
        try:
            if self._ahead:
                self._copy_ahead()
            parts.prepare()
            return self._stop_and_save(vm, parts)
        except BaseException:
            if vm.held is not None:  # a signal came right where the pause was to be ended
                with contextlib.suppress(PagecheckError):
                    vm.resume()
            if line := parts.after_failure():
                log.warning("%s: %s", vm.text, line)
            raise

    def _copy_ahead(self) -> None:
        """Copies what the VM has while it runs; with `live` once more what it changed meanwhile:
        that takes less time, so that less is left for the pause."""
        watch = self._watch()
        self._copying.copy_ahead(watch)
        if not self._wanted.live:
            return
        self._ahead_s = self._copying.last_pass_s
        try:
            self._copying.sync()
        except OSError as error:
            raise not_written(self._where, error) from error
        self._copying.copy_ahead(lambda _done: watch(self._size))

    def _stop_and_save(self, vm: Vm, parts: VmParts) -> SaveReport:
        wanted, watch, created = self._wanted, self._watch(), now_text()
        wanted.notify("paused", wanted.max_pause)
        with Stopped(vm, wanted.max_pause) as stopped:
            parts.take_state()
            self._copying.copy(lambda: stopped.left_s, watch)
            parts.take_disks()
            if wanted.then == "run":
                stopped.end()
                wanted.notify("paused", None)
            _require_same(vm)
            report = self._write(created, exact=True, parts=parts, pause=stopped.pause)
            if wanted.then == "quit" and not vm.is_stopped():
                stopped.end()  # which tells why it runs
            self._publish()
            if wanted.then == "quit":
                with signals_held():  # what became of the VM is told
                    pause = stopped.quit(self._where)
                    wanted.notify("paused", None)
                    parts.wait_ended()
                report = report._replace(pause=pause, ended=True)
        return report

    def _watch(self) -> Watch:
        """Tells how far a part of the work is, to be called with the bytes done of it; there is one
        part for each pass."""
        size = self._size
        before, self._bytes_done = self._bytes_done, self._bytes_done + size
        passes = 1 + self._ahead + self._passes_after
        progress = self._wanted.progress

        def watch(done: int) -> None:
            if progress is not None:
                progress(before + min(done, size), passes * size)

        return watch

    @property
    def _size(self) -> int:
        return sum(found.ram.size for found in self._opened.blocks)

    def _require_no_writer(self) -> None:
        if self._scanner.may_yet_write - self._left_before:
            raise OutputError(
                f"{self._where}: a worker that writes there was left behind, and may write yet; "
                "nothing was saved: see to the disk, and save again"
            )

    def _without_live_s(self, pause: Pause | None) -> float | None:
        """See `SaveReport.pause_without_live`."""
        if pause is None or self._ahead_s is None or not pause.stopped_by_us:
            return None
        return max(0.0, pause.seconds - self._copying.last_pass_s + self._ahead_s)

    @abstractmethod
    def _create_files(self, stack: contextlib.ExitStack) -> list[tuple[str, int]]:
        """Makes the RAM files, if they are not there yet: the name of each, and a descriptor that
        the stack closes."""

    @abstractmethod
    def _write(
        self,
        created: str,
        *,
        exact: bool,
        parts: VmParts | None = None,
        pause: Pause | None = None,
    ) -> SaveReport:
        """Keeps all that goes with the RAM files, to which everything was copied."""

    @abstractmethod
    def _publish(self) -> None:
        """All of it is kept, and is safe from here on."""


class Saving(Taking):
    """A save to a new directory."""

    def __init__(
        self,
        opened: Opened,
        directory: NewDirectory,
        scanner: Coordinator,
        wanted: Wanted,
        state_bytes: int,
    ) -> None:
        """As of `Taking`.

        Args:
            state_bytes: what goes with the RAM of a VM.
        """
        super().__init__(opened, directory.path, scanner, wanted)
        self._directory = directory
        self._state_bytes = state_bytes
        self._passes_after = 1 if wanted.compress is None else 2

    def save_file(self) -> SaveReport:
        """Saves a file.

        Raises:
            SourceError: it is not at rest.
            OutputError: the snapshot cannot be written.
        """
        created = now_text()
        self._copying.copy(None, self._watch())
        why = next((each.why_live for each in self._copying.results if each.why_live), None)
        if why is not None and not self._wanted.live:
            raise SourceError(not_at_rest(self._opened.text, why))
        report = self._write(created, exact=why is None)
        self._publish()
        note = f"{self._opened.text}: {why}: the snapshot may be of no one moment"
        return report if why is None else report._replace(notes=(*report.notes, note))

    def _create_files(self, stack: contextlib.ExitStack) -> list[tuple[str, int]]:
        """Checks that there is room, and makes the RAM files: the name of each, and a descriptor
        that the stack closes."""
        opened, where = self._opened, self._directory.path
        require_room(
            where,
            self._directory.fd,
            [found.ram for found in opened.blocks],
            self._state_bytes,
            lambda: normal_bytes(
                self._scanner, opened.blocks, opened.page_size, self._wanted.max_rate
            ),
        )
        return create_ram_files(stack, self._directory, [found.ram for found in opened.blocks])

    def _write(
        self,
        created: str,
        *,
        exact: bool,
        parts: VmParts | None = None,
        pause: Pause | None = None,
    ) -> SaveReport:
        """Writes all that goes with the RAM files, which are complete."""
        directory, copying = self._directory, self._copying
        try:
            copying.finish()
            self._require_no_writer()
            blocks = finish_blocks(
                directory,
                written(copying),
                page_size=self._opened.page_size,
                compress=self._wanted.compress,
                watch=self._watch,
                pace=Pace(self._wanted.max_rate),
            )
            snapshot = write_manifest(
                directory,
                blocks,
                created=created,
                exact=exact,
                page_size=self._opened.page_size,
                machine=None if parts is None else parts.machine,
                state=None if parts is None else parts.state,
                disks=() if parts is None else parts.disks,
                pause=None if pause is None else pause._asdict(),
            )
        except OSError as error:
            raise not_written(directory.path, error) from error
        return self._report(snapshot, pause)

    def _publish(self) -> None:
        self._directory.finish()

    def _report(self, snapshot: Snapshot, pause: Pause | None) -> SaveReport:
        opened, scanner, results = self._opened, self._scanner, self._copying.results
        vm_notes = opened.vm.notes if opened.vm is not None else []
        notes = (*vm_notes, *(note for each in results for note in each.notes))
        return SaveReport(
            source=opened.text,
            directory=self._directory.path,
            exact=snapshot.exact,
            engine=scanner.engine,
            kernel=scanner.kernel,
            channels=scanner.channels,
            page_size=opened.page_size,
            seconds=0.0,
            blocks=tuple(
                SavedBlock(result.report.block, result.report.counts, each.file, each.bytes_stored)
                for result, each in zip(results, snapshot.blocks, strict=True)
            ),
            pause=pause,
            pause_without_live=self._without_live_s(pause),
            bytes_stored=bytes_stored(snapshot),
            state_bytes=0 if snapshot.state is None else snapshot.state.size,
            overlays=tuple(
                (disk.device, disk.overlay) for disk in snapshot.disks if disk.overlay is not None
            ),
            notes=tuple(dict.fromkeys(notes)),
        )


def not_at_rest(text: str, why: str) -> str:
    """The message about a file that others may write to."""
    return (
        f"{text}: {why}; a snapshot of it may be of no one moment: give the VM's socket, which is "
        "stopped then, or end the writer, or say --live to save it as it is"
    )


def _require_same(vm: Vm) -> None:
    """Raises SourceError where what was saved is not all of the VM's RAM."""
    if (why := vm.doubt()) is not None:
        raise SourceError(f"{why}; nothing was saved")
    if changes := vm.changes():
        raise SourceError(f"{'; '.join(changes)}; nothing was saved: save again")
    vm.is_stopped()  # which fails where these could not be asked


def create_ram_files(
    stack: contextlib.ExitStack, directory: NewDirectory, blocks: Sequence[RamBlock]
) -> list[tuple[str, int]]:
    """Makes the RAM files of a snapshot, as long as their blocks.

    Args:
        stack: closes their descriptors.

    Returns:
        The name of each, and a descriptor.

    Raises:
        OutputError: one cannot be made.
    """
    found = []
    for ram, stem in zip(blocks, file_stems([each.name for each in blocks]), strict=True):
        name = f"{stem}.ram"
        fd = directory.create(name)
        stack.callback(os.close, fd)
        _lengthen(fd, ram.size, f"{directory.path}/{name}")
        found.append((name, fd))
    return found


def _lengthen(fd: int, size: int, where: str) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise not_written(where, error) from error
        raise OutputError(
            f"{where}: would have {size} bytes, more than a limit (ulimit -f) or the file system "
            "permits; nothing was stopped"
        ) from error


def not_written(where: str, error: OSError) -> OutputError:
    """What to raise where a part of a snapshot cannot be written."""
    return OutputError(f"{where}: cannot be written: {error.strerror}; nothing was saved")
