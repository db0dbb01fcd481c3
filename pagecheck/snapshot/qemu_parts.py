"""What is saved of QEMU's VM beside its RAM: the devices' state, its disks, what the VM is."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.snapshot.stream import state_stream
from pagecheck.snapshot.values import Disk, Machine
from pagecheck.vmm.qemu_machine import machine_of
from pagecheck.vmm.qemu_state import DeviceState

if TYPE_CHECKING:
    from pagecheck.snapshot.vm_parts import Disks, Then
    from pagecheck.vmm import Vm
    from pagecheck.vmm.pause import QemuMonitor
    from pagecheck.vmm.qemu_state import SavedState

END_S: Final = 10.0  # until QEMU must have ended


class QemuParts:
    """See `vm_parts.VmParts`; a context manager that takes back what QEMU was given."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        vm: Vm,
        qemu: QemuMonitor,
        disks: Disks | None,
        then: Then,
    ) -> None:
        """Refuses what cannot be saved, and prepares the rest.

        Args:
            stack: takes back what QEMU was given.

        Raises:
            UsageError: more has to be said of the disks.
            SourceError, PeerError: the VM cannot be saved; the message names what prevents it.
        """
        if disks == "overlay":
            raise UsageError(f"{qemu.name}: --disks overlay cannot be done yet; use --then quit")
        self._qemu = qemu
        self._then = then
        found = machine_of(qemu)
        members = found._asdict()
        known = {name: members.pop(name) for name in Machine._fields if name in members}
        known["command_line"] = tuple(known["command_line"])
        self.machine = Machine(**known, other=members)
        self.disks: tuple[Disk, ...] = ()
        self._page_bits = found.page_bits
        self._machine_type = found.machine_type
        self._saved: SavedState | None = None
        self._devices = stack.enter_context(DeviceState(qemu, [ram.source.name for ram in vm.rams]))

    @property
    def state(self) -> bytes | None:
        """The devices' state as a migration stream."""
        if self._saved is None:
            return None
        return b"".join(state_stream(self._saved, self._machine_type, self._page_bits))

    def take_state(self) -> None:
        """Saves the devices' state, in memory."""
        self._saved = self._devices.save()

    def take_disks(self) -> None:
        """Has the disks go on in overlays, where that was asked for."""

    def end_vm(self) -> None:
        """Ends the VM, and waits until QEMU is gone.

        Raises:
            SourceError: it is still there.
        """
        pidfd = os.pidfd_open(self._qemu.peer_pid) if self._qemu.peer_pid > 0 else -1
        try:
            with contextlib.suppress(PeerError):  # it may be gone before its answer is
                self._qemu.execute("quit")
            if pidfd >= 0 and not select.select([pidfd], [], [], END_S)[0]:
                raise SourceError(
                    f"{self._qemu.name}: QEMU has not ended in {END_S:.0f} s; the snapshot is "
                    "safe, and the VM is stopped: end QEMU yourself"
                )
        finally:
            if pidfd >= 0:
                os.close(pidfd)
