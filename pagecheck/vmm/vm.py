"""A running VM as a source of RAM: opened by process id or by the socket of its VMM."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.model import Pause, vm_source
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.api_ram import api_says
from pagecheck.vmm.find.arrival import files_that_arrive, holds_userfaultfd, not_arrived
from pagecheck.vmm.find.plugged import changes, plugged
from pagecheck.vmm.find.private import arrives
from pagecheck.vmm.find.process import open_process, open_process_of
from pagecheck.vmm.hold.acting import User
from pagecheck.vmm.hold.pause import QemuMonitor, VmmMonitor
from pagecheck.vmm.kinds import CROSVM, KINDS, QEMU
from pagecheck.vmm.process.memory import Admit, ProcessMemory
from pagecheck.vmm.qemu.source import open_qemu
from pagecheck.vmm.ram import PauseResult, PunchResult, VmRam


class Vm:
    """A running VM; made by `open_vm`, a context manager.

    Attributes:
        text: the source as the user wrote it.
        rams: its RAM blocks, open.
        unreadable: those that cannot be read.
        notes: one line each on what a user should know of them.
        can_pause: whether `pause` and `resume` work; False for `pid:`.
        connected_as: the place, in the users of `open_vm`, of the one whose rights were needed.
        place: device and inode of the socket that was connected to.
        on_pause: called with every pause once it is over.
    """

    def __init__(
        self,
        text: str,
        found: VmRam,
        monitor: VmmMonitor | None = None,
        process: ProcessMemory | None = None,
        at_first: dict[str, int] | None = None,
    ) -> None:
        """Takes everything over.

        Args:
            process: whose RAM it is, where it was found by process id.
            at_first: the memory devices when it was opened, by the monitor.
        """
        self.text = text
        self.rams = found.rams
        self.unreadable = found.unreadable
        self.notes = [*found.notes, *(each.why for each in found.unreadable)]
        self.can_pause = monitor is not None
        self.connected_as = 0 if monitor is None else monitor.connected_as
        self.place = None if monitor is None else monitor.place
        self.on_pause: Callable[[Pause], None] = lambda _pause: None
        self._monitor = monitor
        self._process = process
        self._at_first = at_first or {}

    @property
    def vmm(self) -> str:
        """The VMM's name; empty for `pid:`."""
        return "" if self._monitor is None else self._monitor.kind.vmm

    @property
    def qemu(self) -> QemuMonitor | None:
        """The connection to it, if it is QEMU's."""
        return self._monitor if isinstance(self._monitor, QemuMonitor) else None

    def doubt(self) -> str | None:
        """Why pages that were reported as zero until now may not have arrived, or None; None too
        where the VM has ended and cannot be asked: what had arrived stays."""
        with contextlib.suppress(SourceError, PeerError):
            if isinstance(self._monitor, QemuMonitor):
                return not_arrived(self._monitor)
            if self._process is not None and holds_userfaultfd(self._process):
                details = list(self._process.detailed_mappings())
                used = {(each.dev, each.inode) for each in self._process.used}
                if not used.isdisjoint(files_that_arrive(details)) or any(
                    arrives(details, each.source.base, each.source.size)
                    for each in self.rams
                    if isinstance(each.source, ProcessRam)
                ):
                    return f"{self.text}: pages of its RAM have yet to arrive (userfaultfd)"
        return None

    def changes(self) -> list[str]:
        """A line for every memory device that came, went or changed since it was opened; none where
        that cannot be asked."""
        if isinstance(self._monitor, QemuMonitor):
            with contextlib.suppress(SourceError, PeerError):
                return changes(self._at_first, plugged(self._monitor))
        return []

    def pause(self, max_seconds: float) -> None:
        """Stops the VM if it is running.

        Args:
            max_seconds: after this time it is continued, whatever happens here.

        Raises:
            UsageError: it cannot be paused from here, or is already.
            SourceError: a migration is going on.
            PeerError: the VMM does not stop it, or ended.
        """
        self._require_monitor().pause(max_seconds)

    def resume(self, *, leave_stopped: bool = False) -> Pause:
        """Continues the VM if it was us who stopped it.

        Args:
            leave_stopped: if its RAM was unchanged until now, it stays stopped.

        Raises:
            UsageError: it was not paused.
            PeerError: the VMM does not continue it, or ended.
            SourceError: a migration took it away, or nothing is known of the pause.
        """
        return self._over(self._require_monitor().resume(leave_stopped=leave_stopped))

    def quit(self) -> Pause:
        """Ends the pause, and QEMU with it, if the VM's RAM was unchanged until now; else as
        `resume`. The VM is held until QEMU has answered, which may still be there then.

        Raises:
            UsageError, SourceError: as `resume`.
            PeerError: as `resume`; or QEMU does not end, and the VM runs on.
        """
        return self._over(self._require_monitor().quit())

    def _over(self, result: PauseResult) -> Pause:
        pause = Pause(result.paused_ns / 1e9, *result[1:])
        self.on_pause(pause)
        return pause

    def punch(
        self, fd: int, unit: int, kernel: str, ranges: Sequence[tuple[int, int]]
    ) -> PunchResult:
        """Makes holes of the zero units of its RAM while it is paused.

        Args:
            fd: of a block's file, open for reading and writing.
            unit, kernel: as of `punch_zero`.
            ranges: first byte and end of each in the file; what takes some milliseconds in all.

        Raises:
            UsageError: it cannot be paused from here.
            PeerError: the VMM does not answer.
            SourceError: the watchdog died.
        """
        return self._require_monitor().punch(fd, unit, kernel, ranges)

    def other_writer(self) -> str:
        """What may write to its RAM although it is stopped; empty: nothing that can be seen.

        Raises:
            UsageError: it cannot be paused from here.
            SourceError: its process cannot be inspected.
            PeerError: the VMM does not answer.
        """
        from pagecheck.vmm.writers import other_writer

        return other_writer(self._require_monitor())

    @property
    def pid(self) -> int:
        """The process behind its socket; 0 where there is none, or it cannot be seen from here."""
        return 0 if self._monitor is None else self._monitor.peer_pid

    @property
    def held(self) -> tuple[float, float] | None:
        """Since when and for how long it is stopped by us; see `VmmMonitor.held`."""
        return None if self._monitor is None else self._monitor.held

    def why_moved(self) -> str | None:
        """Why RAM may have changed in the last pause, where no VMM says so; or None."""
        return None if self._monitor is None else self._monitor.why_moved or None

    def is_stopped(self) -> bool | None:
        """Whether its RAM is unchanged at this moment; None where that cannot be asked.

        Raises:
            PeerError: the VMM does not answer, or ended.
        """
        return None if self._monitor is None else self._monitor.is_stopped()

    def close(self) -> None:
        """Continues the VM if it is stopped by us, and closes every source that is still open."""
        with contextlib.ExitStack() as stack:
            for ram in self.rams:
                stack.callback(ram.source.close)
            if self._process is not None:
                stack.callback(self._process.close)
            if self._monitor is not None:
                self._monitor.close()

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _require_monitor(self) -> VmmMonitor:
        if self._monitor is None:
            raise UsageError(
                f"{self.text}: cannot be paused by its process id; give qmp:SOCKET, fc:SOCKET, "
                "ch:SOCKET or crosvm:SOCKET, or pause it with the VMM's own tool"
            )
        return self._monitor


def open_vm(
    text: str,
    *,
    trust_path: bool = False,
    read_swapped: bool = False,
    users: Sequence[User | None] = (None,),
    admit: Admit | None = None,
) -> Vm:
    """Opens the RAM of a running VM.

    Args:
        text: `pid:PID`, `pid:PID:NAME`, `qmp:SOCKET`, `fc:SOCKET`, `ch:SOCKET` or
            `crosvm:SOCKET`.
        trust_path: the user vouches for the paths that QEMU reports: they are opened where nothing
            proves which file a block is.
        read_swapped: private pages that are swapped out are read, which brings them in.
        users: those in whose names a socket may be connected to, in order; None is ourselves.
        admit: called with the VM's process before anything of it is looked at, and after that;
            raises where it may not be.

    Raises:
        AccessError: none of the users may connect there.
        SourceError: there is no such VM, it may not be inspected, none of its RAM can be read, or
            it has not arrived.
        PeerError: the VMM does not answer, or another program does.
        EngineError: the watchdog of a connection cannot be started.
        UsageError: the text is not the name of a VM.
    """
    prefix, path = vm_source(text)
    if prefix == "pid":
        found, process = open_process(text, read_swapped=read_swapped, admit=admit)
        return Vm(text, found, process=process)
    if prefix not in KINDS:
        raise UsageError(f"{text}: is not the name of a VM; write pid:PID or qmp:/path/to/socket")
    if KINDS[prefix] is not QEMU:
        monitor = VmmMonitor(KINDS[prefix], path, users)
        return _open_other(text, monitor, read_swapped=read_swapped, admit=admit)
    qemu = QemuMonitor(path, users)
    how = {"trust_path": trust_path, "read_swapped": read_swapped}
    return _open_qemu(text, qemu, admit=admit, **how)


def _open_other(text: str, monitor: VmmMonitor, *, read_swapped: bool, admit: Admit | None) -> Vm:
    """A VM of another VMM than QEMU: the RAM is that of the process behind the socket."""
    with contextlib.ExitStack() as undo:
        undo.callback(monitor.close)
        if not monitor.peer_pid:
            raise SourceError(
                f"{text}: the process behind the socket cannot be seen from this pid namespace; "
                "scan it from the host's"
            )
        how: Any = {"read_swapped": read_swapped, "admit": admit}
        said = None if monitor.kind is CROSVM else api_says(text, monitor)
        found, process = open_process_of(text, monitor.peer_pid, said, **how)
        vm = Vm(text, found, monitor, process)
        undo.callback(vm.close)
        monitor.is_stopped()  # it answers still, so that its number is not another process's by now
        undo.pop_all()
        return vm


def _open_qemu(
    text: str, monitor: QemuMonitor, *, trust_path: bool, read_swapped: bool, admit: Admit | None
) -> Vm:
    try:
        _require_arrived(monitor)
        at_first = plugged(monitor)
        how = {"trust_path": trust_path, "read_swapped": read_swapped}
        found = open_qemu(text, monitor, admit=admit, **how)
        vm = Vm(text, found, monitor, at_first=at_first)
    except BaseException:
        monitor.close()
        raise
    try:
        _require_arrived(monitor)
    except BaseException:
        vm.close()
        raise
    return vm


def _require_arrived(monitor: QemuMonitor) -> None:
    if (why := not_arrived(monitor)) is not None:
        raise SourceError(why)
