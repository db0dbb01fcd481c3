"""`pagecheck restore`: a snapshot's RAM in files, and a QEMU that continues its VM.

The order is what keeps it safe: what the command asks for is compared with the manifest, then every
byte is verified, and only then RAM has a name, or what exists is written over, and QEMU is started.
A new file is written while its RAM is verified, which reads it once instead of twice.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pagecheck import clock
from pagecheck.coordinator.settings import check_channels, default_channels
from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot import manifest
from pagecheck.snapshot.command_words import escaped
from pagecheck.snapshot.huge_layout import lay_out_huge
from pagecheck.snapshot.incoming import IncomingQemu
from pagecheck.snapshot.new_layout import laid_out, page_writer
from pagecheck.snapshot.outside import require_outside
from pagecheck.snapshot.qemu_command import RamFile, require_startable, with_ram
from pagecheck.snapshot.ram_layout import LaidOut, lay_out_onto
from pagecheck.snapshot.ram_target import RamTarget, path_of, require_usable
from pagecheck.snapshot.ready import require_ready
from pagecheck.snapshot.verified import VerifiedSnapshot

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.snapshot.checksums import Look
    from pagecheck.snapshot.machine_types import TypesQuery
    from pagecheck.snapshot.values import Snapshot, SnapshotBlock

Progress = Callable[[int, int], None]


class RestoreReport(NamedTuple):
    """What was restored.

    Attributes:
        directory: the snapshot's.
        blocks: the RAM files.
        verify_s: seconds that the verification took, with new files, which are written meanwhile.
        layout_s: seconds that RAM which existed, or is on hugetlbfs, took.
        state: path of the file that QEMU loads; None where memory files were saved.
        command: the command that continues the VM; empty where none was given.
        pid: of the QEMU whose VM runs; None without one.
        load_s: seconds from the start of QEMU until its VM ran; None without one.
    """

    directory: str
    blocks: tuple[LaidOut, ...]
    verify_s: float
    layout_s: float
    state: str | None
    command: tuple[str, ...] = ()
    pid: int | None = None
    load_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `pagecheck restore --json`."""
        blocks = [each.to_json() for each in self.blocks]
        return {"version": 1, **self._asdict(), "blocks": blocks, "command": list(self.command)}


class Restored:
    """RAM that was laid out, and what continues the VM; a context manager that closes the snapshot,
    and takes new RAM files back unless it was kept.

    Attributes:
        report: of what was done until now.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        ram: str | os.PathLike[str] | Mapping[str, str],
        *,
        command: Sequence[str] = (),
        onto: bool = False,
        max_rate: int | None = None,
        channels: int | None = None,
        verifying: Progress | None = None,
        writing: Progress | None = None,
        coordinator: Coordinator | None = None,
        query: TypesQuery | None = None,
    ) -> None:
        """Compares, verifies, and lays RAM out; the arguments are those of `restore`.

        Args:
            query: to the command's QEMU, where it was asked ahead.
        """
        self._stack = contextlib.ExitStack()
        self._targets: list[RamTarget] = []
        self._kept = False
        self._ram, self._onto, self._command = ram, onto, command
        try:
            if channels is not None:
                check_channels(channels)
            if command:
                require_ready(directory, command, query)
            _require_targets(directory, ram, onto=onto)
            started = clock.now_s()
            opened = VerifiedSnapshot(
                directory,
                threads=channels,
                also=self._begin,
                max_rate=max_rate,
                progress=verifying,
            )
            self._verified = self._stack.enter_context(opened)
            verified = clock.now_s()
            blocks = self._lay_out(max_rate, channels, writing, coordinator)
            self.report = RestoreReport(
                directory=os.fspath(directory),
                blocks=blocks,
                verify_s=verified - started,
                layout_s=clock.now_s() - verified,
                state=_state_path(directory, self._verified.snapshot),
                command=tuple(self._words),
            )
        except BaseException:
            self.close()
            raise

    def _begin(self, snapshot: Snapshot, bitmaps: list[bytes]) -> list[Look | None]:
        """Opens the RAM files; returns what writes the new ones as they are verified."""
        self._paths = _paths(snapshot, self._ram)
        self._words = _extended(self._command, snapshot, self._paths) if self._command else []
        looks: list[Look | None] = []
        for block, zero in zip(snapshot.blocks, bitmaps, strict=True):
            target = RamTarget(self._paths[block.name], block.size, onto=self._onto)
            self._targets.append(self._stack.enter_context(target))
            target.require_room(block.normal * snapshot.page_bytes)
            is_plain = target.is_new and not target.is_hugetlbfs
            if block.compression is not None and not is_plain:
                raise UsageError(
                    f"{printable(target.path)}: RAM of a compressed snapshot is restored to a new "
                    "file only, and not on hugetlbfs; choose a path where nothing is"
                )
            writer = page_writer(target, zero, snapshot.page_bytes) if is_plain else None
            looks.append(writer)
        return looks

    def _lay_out(
        self,
        max_rate: int | None,
        channels: int | None,
        progress: Progress | None,
        coordinator: Coordinator | None,
    ) -> tuple[LaidOut, ...]:
        """Writes the files that no verification may be behind, and publishes all."""
        blocks = self._verified.snapshot.blocks
        total, before = sum(each.size for each in blocks), 0
        found = []
        try:
            for block, target in zip(blocks, self._targets, strict=True):
                part = _part_of(progress, before, total)
                with self._verified.folder.changes_explain_errors():
                    done = self._lay_out_one(block, target, max_rate, channels, part, coordinator)
                found.append(done)
                before += block.size
            self._verified.folder.require_unchanged()
        except BaseException as error:
            self._tell_of_half(error, len(found))
            raise
        for target in self._targets:
            target.publish()
        return tuple(found)

    def _tell_of_half(self, error: BaseException, done: int) -> None:
        """Adds to an error, or to what an interrupt says, which RAM is not what it was."""
        old = [each.path for each in self._targets[: done + 1] if not each.is_new]
        if old:
            shown = ", ".join(printable(path) for path in old)
            error.args = (
                f"{error}; {shown} may hold part of the snapshot and part of what was there: "
                "restore to it again before a VM uses it",
            )

    def _lay_out_one(
        self,
        block: SnapshotBlock,
        target: RamTarget,
        max_rate: int | None,
        channels: int | None,
        progress: Progress | None,
        coordinator: Coordinator | None,
    ) -> LaidOut:
        page_size = self._verified.snapshot.page_bytes
        fd = self._verified.folder.held(block.file)
        if target.is_hugetlbfs:
            return lay_out_huge(
                block, fd, target, page_size=page_size, max_rate=max_rate, progress=progress
            )
        if target.is_new:
            return laid_out(block, target)
        with contextlib.ExitStack() as stack:
            return lay_out_onto(
                coordinator or stack.enter_context(_workers(channels, block.size)),
                block.name,
                fd,
                target,
                page_size=page_size,
                max_rate=max_rate,
                progress=progress,
            )

    def command_to_print(self) -> list[str]:
        """What a user runs to continue the VM: the given command, or the one that the VM was
        started with, or what its machine says, each with the RAM files and the state."""
        assert self.report.state is not None
        words = list(self.report.command) or _guessed(self._verified.snapshot, self._paths)
        return [*words, "-incoming", f"exec:cat {shlex.quote(self.report.state)}"]

    def start(self, *, paused: bool = False) -> IncomingQemu:
        """Starts QEMU, which waits for the state then.

        Raises:
            EngineError: it cannot be started.
            PeerError: it does not start.
        """
        qemu = IncomingQemu(self.report.command, paused=paused)
        try:
            qemu.wait_ready()
        except BaseException:
            qemu.close()
            raise
        return qemu

    def load(self, qemu: IncomingQemu, *, paused: bool = False) -> None:
        """Gives a QEMU the state that was verified; its VM runs then, or stays stopped if that is
        wanted, and the RAM files stay.

        Raises:
            SnapshotError: a file was changed since it was verified.
            PeerError: it does not load it.
        """
        state = self._verified.snapshot.state
        assert state is not None  # it was compared
        self._verified.folder.require_unchanged()
        started = clock.now_s()
        qemu.load(self._verified.folder.held(state.file), state.size, paused=paused)
        self.report = self.report._replace(pid=qemu.process.pid, load_s=clock.now_s() - started)
        self.keep()

    def keep(self) -> None:
        """The RAM files stay when this is closed."""
        self._kept = True

    def close(self) -> None:
        """Closes everything; a QEMU whose VM runs goes on."""
        if not self._kept:
            for target in self._targets:
                target.take_back()
        self._stack.close()

    def __enter__(self) -> Restored:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def restore(
    directory: str | os.PathLike[str],
    ram: str | os.PathLike[str] | Mapping[str, str],
    *,
    onto: bool = False,
    max_rate: int | None = None,
    channels: int | None = None,
    progress: Progress | None = None,
    coordinator: Coordinator | None = None,
) -> RestoreReport:
    """Verifies a snapshot and lays its RAM out in files, zero pages as holes.

    Args:
        directory: the snapshot's.
        ram: the new RAM file: a path, or `shm:/name`; of a snapshot of several blocks, one for each
            by its name.
        onto: a RAM file that exists is written over; a page is cleared only if it is not zero.
        max_rate: bytes per second that may be read.
        channels: workers or, for a new file, threads; by default as for a scan, or one per CPU.
        progress: called with (bytes done, bytes in total) now and then, first of the verification,
            then of RAM that exists: its pages, and what in it must be cleared.
        coordinator: whose workers write over RAM that exists; it stays open.

    Returns:
        The report. How the VM is continued from the files docs/snapshots.md tells.

    Raises:
        SnapshotError: the snapshot does not verify; nothing was written.
        OutputError: a RAM file cannot be written, or exists.
        UsageError: the blocks are not those of the snapshot.
    """
    with Restored(
        directory,
        ram,
        onto=onto,
        max_rate=max_rate,
        channels=channels,
        verifying=progress,
        writing=progress,
        coordinator=coordinator,
    ) as restored:
        restored.keep()
        return restored.report


def _require_targets(
    directory: str | os.PathLike[str],
    ram: str | os.PathLike[str] | Mapping[str, str],
    *,
    onto: bool,
) -> None:
    """Refuses what cannot be written to before the verification, which may take long."""
    snapshot = manifest.read(directory)
    paths = _paths(snapshot, ram)
    for each in snapshot.blocks:
        require_usable(paths[each.name], each.size, onto=onto)
        require_outside(paths[each.name], directory)


def _paths(snapshot: Snapshot, ram: str | os.PathLike[str] | Mapping[str, str]) -> dict[str, str]:
    """The absolute path of each block's RAM file."""
    names = [each.name for each in snapshot.blocks]
    shown = ", ".join(printable(name) for name in names)
    if isinstance(ram, (str, os.PathLike)):
        if len(names) != 1:
            raise UsageError(
                f"the snapshot has {len(names)} RAM blocks ({shown}); name a file for each: "
                "--ram BLOCK=PATH"
            )
        ram = {names[0]: os.fspath(ram)}
    if set(ram) != set(names):
        given = ", ".join(printable(name) for name in ram)
        raise UsageError(f"--ram is for {given}, and the snapshot's RAM blocks are {shown}")
    found = {name: path_of(ram[name]) for name in names}
    if len(set(found.values())) != len(found):
        raise UsageError("--ram names one file for two RAM blocks")
    return found


def _extended(words: Sequence[str], snapshot: Snapshot, paths: Mapping[str, str]) -> list[str]:
    files = [RamFile(each.name, each.size, paths[each.name]) for each in snapshot.blocks]
    return with_ram(words, files, share=True)


def _guessed(snapshot: Snapshot, paths: Mapping[str, str]) -> list[str]:
    """A command of the snapshot's own: to be shown, never to be run from here."""
    machine = snapshot.machine
    if machine is not None:
        with contextlib.suppress(UsageError):
            require_startable(machine.command_line)
            return _extended(machine.command_line, snapshot, paths)
    arch = (machine and machine.arch) or "x86_64"
    words = [f"qemu-system-{arch}"]
    if machine is not None and machine.machine_type:
        words += ["-machine", machine.machine_type]
    if len(snapshot.blocks) > 1:
        for each in snapshot.blocks:
            words += ["-object", f"memory-backend-ram,id={escaped(each.name)}"]
            words += ["-numa", f"node,memdev={escaped(each.name)}"]
    return _extended(words, snapshot, paths)


def _state_path(directory: str | os.PathLike[str], snapshot: Snapshot) -> str | None:
    if snapshot.state is None:
        return None
    return os.path.join(os.path.abspath(os.fspath(directory)), snapshot.state.file)


def _workers(channels: int | None, size: int) -> Coordinator:
    from pagecheck.coordinator.coordinator import Coordinator

    return Coordinator(channels=channels or default_channels(size), engine="cpu")


def _part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _size: progress(before + done, total)
