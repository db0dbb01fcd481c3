"""`pagecheck clone`: many VMs from one snapshot, whose RAM file all of them map privately.

Facts: pages that no clone has written are in the page cache once, whatever the number of clones.
QEMU opens the file, for writing too before 8.2, but maps it privately: what it writes stays its
own. Only a device that gives RAM back would make holes in the file; `separate.py` refuses those.
Decision: each QEMU gets the descriptor that was verified (/dev/fd/N), and its state as a restore
does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pagecheck import clock
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.errors import OutputError, SnapshotError, UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.clone_files import bound_socket, create_empty, new_folder, remove_folder
from pagecheck.snapshot.incoming import IncomingQemu
from pagecheck.snapshot.outside import require_outside
from pagecheck.snapshot.overlays import Disk
from pagecheck.snapshot.qemu_command import RamFile, with_ram
from pagecheck.snapshot.ready import require_ready
from pagecheck.snapshot.separate import numbered, require_separate
from pagecheck.snapshot.verified import VerifiedSnapshot

if TYPE_CHECKING:
    from pagecheck.snapshot.machine_types import TypesQuery
    from pagecheck.snapshot.values import Snapshot

Progress = Callable[[int, int], None]
Disks = Literal["overlay"]

CLONES_MAX: Final = 1000
_END_S: Final = 10.0


class CloneReport(NamedTuple):
    """One clone.

    Attributes:
        number: from 1 on.
        pid: of its QEMU.
        qmp: path of its own QMP socket.
        overlays: paths of the files that its disks are written to.
        running_s: seconds from the start of the first QEMU until its VM ran.
        pss_bytes: what it costs in memory: its own pages, and its part of those that it shares.
        private_bytes: of these, its own pages.
    """

    number: int
    pid: int
    qmp: str
    overlays: tuple[str, ...]
    running_s: float
    pss_bytes: int
    private_bytes: int


class Clones:
    """VMs from one snapshot; a context manager that ends all of them, and removes sockets and
    overlays that it made.

    Attributes:
        verify_s: seconds that the verification took.
        reports: of each clone, once all run.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        count: int,
        command: Sequence[str],
        *,
        disks: Disks | None = None,
        share: Collection[str] = (),
        qmp_folder: str | None = None,
        overlay_folder: str | None = None,
        paused: bool = False,
        progress: Progress | None = None,
        query: TypesQuery | None = None,
    ) -> None:
        """Compares, verifies, and makes overlays; nothing is started.

        Args:
            directory: the snapshot's.
            count: how many, 1 to 1000.
            command: QEMU's, as for a first start; `{n}` stands for the clone's number.
            disks: `overlay`: each clone writes to overlays of the command's disks.
            share: names of what clones may share although it looks as if they may not.
            qmp_folder: where their QMP sockets are; by default a new one.
            overlay_folder: where overlays are made; by default a new one.
            paused: the VMs stay stopped.
            progress: called with (bytes done, bytes in total) while the snapshot is verified.
            query: to the command's QEMU, where it was asked ahead.

        Raises:
            UsageError: the command makes another machine, or clones would share what they may not.
            SnapshotError: the snapshot does not verify.
            OutputError: a folder or an overlay cannot be made.
        """
        if not 1 <= count <= CLONES_MAX:
            raise UsageError(f"{count} clones: must be 1 to {CLONES_MAX}")
        self._count = count
        self._paused = paused
        self.reports: list[CloneReport] = []
        self._qemus: list[IncomingQemu] = []
        self._overlays: list[list[str]] = []
        self._locks: list[int] = []  # of folders of ours; QEMUs have them as long as they run
        self._stack = contextlib.ExitStack()
        try:
            for folder in filter(None, (qmp_folder, overlay_folder)):
                require_outside(os.path.join(folder, "clone1"), directory)
            require_ready(directory, numbered(command, 1), query)
            shared = require_separate(command, allowed=share, overlays=disks == "overlay")
            started = clock.now_s()
            opened = VerifiedSnapshot(directory, progress=progress)
            self._verified = self._stack.enter_context(opened)
            self.verify_s = clock.now_s() - started
            self._command = list(command)
            self._files = _ram_files(self._verified)
            with_ram(numbered(command, 1), self._files, share=False)
            self._disks = [Disk(each.name, each.option) for each in shared]
            self._folder = self._made(qmp_folder)
            self._make_overlays(overlay_folder)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The QEMUs."""
        return [each.process for each in self._qemus]

    def _made(self, folder: str | None) -> str:
        """A folder that exists; a new one is removed at the end."""
        try:
            if folder is None:
                folder, lock = new_folder(self._stack)
                self._locks.append(lock)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                self._stack.callback(remove_folder, folder)
            if not os.path.isdir(folder):
                raise OutputError(f"{printable(folder)}: is not a folder")
        except OSError as error:
            raise OutputError(
                f"{printable(folder or '')}: no folder can be made there: {error.strerror}"
            ) from error
        return os.path.abspath(folder)

    def _make_overlays(self, folder: str | None) -> None:
        if not self._disks:
            self._overlays = [[] for _ in range(self._count)]
            return
        place = self._made(folder)
        for number in range(1, self._count + 1):
            made: list[str] = []
            names: set[str] = set()
            self._overlays.append(made)
            for disk in self._disks:
                name = disk.file_name(number, names)
                names.add(name)
                path = os.path.join(place, name)
                create_empty(path, self._stack)
                disk.make(path)
                made.append(path)

    def _socket(self, number: int) -> str:
        return os.path.join(self._folder, f"clone{number}.qmp")

    def _words(self, number: int) -> list[str]:
        words = self._command
        # The command's options are in their places until the RAM is put in.
        for disk, path in zip(self._disks, self._overlays[number - 1], strict=True):
            words = disk.with_overlay(words, path)
        return with_ram(numbered(words, number), self._files, share=False)

    def start(self) -> list[CloneReport]:
        """Starts all; each VM runs as soon as its QEMU has the state.

        No more QEMUs start at once than there are CPUs, so that the first runs early.

        Returns:
            `reports`.

        Raises:
            OutputError: a socket cannot be made.
            EngineError, PeerError: one does not start or does not load the state; the others are
                ended with this object.
            SnapshotError: a file was changed since it was verified.
        """
        self._started = clock.now_s()
        state = self._verified.snapshot.state
        assert state is not None  # it was compared
        fd = self._verified.folder.held(state.file)
        at_once, ran = usable_cpus(), []
        for number in range(self._count):
            while len(self._qemus) < min(self._count, number + at_once):
                self._start_one(len(self._qemus) + 1)
            qemu = self._qemus[number]
            qemu.wait_ready()
            self._verified.folder.require_unchanged()
            qemu.load(fd, state.size, paused=self._paused)
            ran.append(clock.now_s() - self._started)
        self.reports = [
            self._report(number, qemu, seconds)
            for number, (qemu, seconds) in enumerate(zip(self._qemus, ran, strict=True), start=1)
        ]
        return self.reports

    def _start_one(self, number: int) -> None:
        name = f"qmp-of-clone{number}"
        fds = [int(each.path.removeprefix("/dev/fd/")) for each in self._files]
        with bound_socket(self._socket(number), self._stack) as bound:
            words = self._words(number)
            words += ["-chardev", f"socket,id={name},fd={bound.fileno()},server=on,wait=off"]
            words += ["-mon", f"chardev={name},mode=control"]
            self._qemus.append(
                IncomingQemu(
                    words,
                    paused=self._paused,
                    name=f"clone {number}",
                    stdin=subprocess.DEVNULL,
                    fds=[*fds, *self._locks, bound.fileno()],
                )
            )

    def _report(self, number: int, qemu: IncomingQemu, seconds: float) -> CloneReport:
        pid, overlays = qemu.process.pid, tuple(self._overlays[number - 1])
        return CloneReport(number, pid, self._socket(number), overlays, seconds, *memory_of(pid))

    def wait(self) -> list[int]:
        """Waits until all have ended; returns their exit statuses, -N where signal N ended one."""
        return [each.wait() for each in self.processes]

    def close(self) -> None:
        """Ends all clones.

        Sockets and overlays that were made for them are removed.
        """
        try:
            for process in self.processes:
                process.terminate()
            until = clock.now_s() + _END_S
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.01, until - clock.now_s()))
        finally:  # also where the wait is interrupted, none is left
            for qemu in self._qemus:
                qemu.process.kill()
            for qemu in self._qemus:
                qemu.process.wait()
                qemu.close()
            self._qemus = []
            self._stack.close()

    def __enter__(self) -> Clones:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def clone(
    directory: str | os.PathLike[str],
    count: int,
    command: Sequence[str],
    *,
    disks: Disks | None = None,
    share: Collection[str] = (),
    qmp_folder: str | None = None,
    overlay_folder: str | None = None,
    paused: bool = False,
    progress: Progress | None = None,
) -> Clones:
    """Starts VMs from one snapshot, which share the pages of its RAM that they have not written.

    Args:
        directory: the snapshot's; every byte is verified first, and none is changed.
        count: how many, 1 to 1000.
        command: QEMU's, as for a first start; `{n}` stands for the clone's number.
        disks: `overlay`: each clone writes to overlays of the command's disks.
        share: names of what clones may share although it looks as if they may not.
        qmp_folder: where their QMP sockets are; by default a new one.
        overlay_folder: where overlays are made; by default a new one.
        paused: the VMs stay stopped.
        progress: called with (bytes done, bytes in total) while the snapshot is verified.

    Returns:
        The clones, which run; a context manager that ends them.

    Raises:
        UsageError: the command makes another machine, or clones would share what they may not.
        SnapshotError: the snapshot does not verify.
        PeerError: a QEMU does not load the state; all are ended.
    """
    clones = Clones(
        directory,
        count,
        command,
        disks=disks,
        share=share,
        qmp_folder=qmp_folder,
        overlay_folder=overlay_folder,
        paused=paused,
        progress=progress,
    )
    try:
        clones.start()
    except BaseException:
        clones.close()
        raise
    return clones


def _ram_files(verified: VerifiedSnapshot) -> list[RamFile]:
    snapshot: Snapshot = verified.snapshot
    for each in snapshot.blocks:
        if each.compression is not None:
            raise SnapshotError(
                f"{verified.folder.path_of(each.file)}: is compressed, and clones map a RAM file "
                "as it is; restore it to a file, or save without --compress"
            )
    return [
        RamFile(each.name, each.size, f"/dev/fd/{verified.folder.held(each.file)}")
        for each in snapshot.blocks
    ]


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process costs: its part of all pages, and those that are its own; 0
    where that may not be seen."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            name, _, value = line.partition(":")
            if value.endswith(" kB\n"):
                found[name] = int(value.split()[0]) << 10
    private = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return found.get("Pss", 0), private


def to_json(clones: Sequence[CloneReport], verify_s: float) -> dict[str, Any]:
    """The document of `pagecheck clone --json`."""
    return {"version": 1, "verify_s": verify_s, "clones": [each._asdict() for each in clones]}
