"""What is saved of QEMU's VM beside its RAM: the devices' state, its disks, what the VM is."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.errors import PagecheckError, SourceError
from pagecheck.snapshot.room import DEVICES_BYTES
from pagecheck.snapshot.stream import state_stream
from pagecheck.snapshot.values import Disk, Machine
from pagecheck.vmm.qemu.disks import (
    disk_values,
    require_choice,
    writable_disks,
    written_at,
)
from pagecheck.vmm.qemu.leftovers import remove_leftovers
from pagecheck.vmm.qemu.machine import machine_of
from pagecheck.vmm.qemu.overlays import Overlays
from pagecheck.vmm.qemu.refusals import require_savable
from pagecheck.vmm.qemu.state import DeviceState

if TYPE_CHECKING:
    from pagecheck.snapshot.values import DiskKept
    from pagecheck.snapshot.vm_parts import Disks, Then
    from pagecheck.vmm import Vm
    from pagecheck.vmm.hold.pause import QemuMonitor
    from pagecheck.vmm.process.memory import Admit
    from pagecheck.vmm.qemu.state import SavedState

END_S: Final = 10.0  # until QEMU must have ended
_WAIT_S: Final = 0.005
_HUNG_UP_NS: Final = 1_000_000_000  # from its last word to its end


class QemuParts:
    """See `vm_parts.VmParts`; a context manager that takes back what QEMU was given."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        vm: Vm,
        qemu: QemuMonitor,
        disks: Disks | None,
        then: Then,
        admit: Admit | None = None,
        *,
        touches_disks: bool = True,
    ) -> None:
        """Refuses what cannot be saved, and prepares the devices' state.

        Args:
            stack: takes back what QEMU was given.
            admit: as of a `ProcessMemory`.
            touches_disks: whether to look at the files that QEMU names; overlays take it.

        Raises:
            UsageError: more has to be said of the disks.
            SourceError, PeerError: the VM cannot be saved; the message names what prevents it.
        """
        require_savable(qemu)
        self._disks = writable_disks(qemu, looks=touches_disks)
        require_choice(vm.text, self._disks, disks, then)
        self._kept: DiskKept = "overlay" if disks == "overlay" else "none"
        self._pidfd = -1
        if then == "quit":
            self._kept = "quit"
            self._pidfd = _pidfd(stack, qemu.peer_pid)
        self._qemu = qemu
        self._touches_disks = touches_disks
        self._stack = stack
        self._found = machine_of(qemu)
        self._overlays: Overlays | None = None
        self._saved: SavedState | None = None
        carried = [ram.source.name for ram in vm.rams]
        self._devices = stack.enter_context(DeviceState(qemu, carried, admit))
        self.disks: tuple[Disk, ...] = ()

    @property
    def state_bytes(self) -> int:
        """What `state` takes at most, about."""
        return DEVICES_BYTES + self._devices.small_bytes

    @property
    def machine(self) -> Machine:
        """What QEMU says of its VM."""
        members = self._found._asdict()
        known = {name: members.pop(name) for name in Machine._fields if name in members}
        known["command_line"] = tuple(known["command_line"])
        for name in ("vmm_version", "machine_type", "arch", "vcpus"):
            known[name] = known[name] or None
        return Machine(**known, other=members)

    @property
    def state(self) -> bytes | None:
        """The devices' state as a migration stream."""
        if self._saved is None:
            return None
        found = self._found
        return b"".join(state_stream(self._saved, found.machine_type, found.page_bits))

    def prepare(self) -> None:
        """Removes what a killed save left; has QEMU make the overlays, where they were asked for.

        Raises:
            SourceError, PeerError: one cannot be made, or what is plugged in has changed.
        """
        require_savable(self._qemu)
        if writable_disks(self._qemu, looks=self._touches_disks) != self._disks:
            raise SourceError(
                f"{self._qemu.name}: its disks changed meanwhile; nothing was saved: save again"
            )
        if self._disks and self._touches_disks:
            remove_leftovers(self._qemu, [each.path for each in self._disks])
        if self._disks and self._kept == "overlay":
            self._overlays = self._stack.enter_context(Overlays(self._qemu, self._disks))

    def take_state(self) -> None:
        """Saves the devices' state, in memory."""
        self._saved = self._devices.save()

    def take_disks(self) -> None:
        """Notes what the disks are at this moment; has them go on in the overlays."""
        if self._overlays is not None:
            self._overlays.use()
            values = self._overlays.values()
        else:
            written = written_at(self._disks) if self._touches_disks else [None] * len(self._disks)
            values = [
                disk_values(each, self._kept, at)
                for each, at in zip(self._disks, written, strict=True)
            ]
        self.disks = tuple(map(_disk, values))

    def after_failure(self) -> str:
        """What became of the disks although nothing was saved; empty: nothing."""
        return "" if self._overlays is None else self._overlays.describe()

    def wait_ended(self) -> None:
        """Waits until QEMU, which was told to end, has ended.

        Raises:
            SourceError: it is still there.
        """
        until_s = clock.now_s() + END_S
        with contextlib.suppress(PagecheckError):
            while clock.now_s() < until_s:
                self._qemu.execute("query-status")
                clock.sleep_s(_WAIT_S)
        if clock.now_s() >= until_s:
            raise SourceError(
                f"{self._qemu.name}: QEMU has not ended in {END_S:.0f} s; the snapshot is safe, "
                "and the VM is stopped: end QEMU yourself"
            )
        if self._pidfd >= 0:  # of whoever made the socket, which may be another process
            clock.wait_ready(self._pidfd, clock.now_ns() + _HUNG_UP_NS)


def _pidfd(stack: contextlib.ExitStack, pid: int) -> int:
    """A descriptor of a process, which the stack closes; -1 where there is none."""
    if pid > 0:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            return fd
    return -1


def _disk(values: dict[str, Any]) -> Disk:
    """What a manifest keeps of a disk; what QEMU leaves empty is not known."""
    other = {name: value for name, value in values.items() if name not in Disk._fields}
    known = {name: values[name] for name in values if name not in other}
    for name in ("path", "format"):
        known[name] = known[name] or None
    known["device"] = known["device"] or values["node"] or "disk"
    return Disk(**known, other=other)
