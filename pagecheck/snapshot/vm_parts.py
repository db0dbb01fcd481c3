"""What is saved of a VM beside its RAM."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Literal, Protocol

from pagecheck.errors import UsageError
from pagecheck.snapshot.values import Machine

if TYPE_CHECKING:
    from pagecheck.snapshot.values import Disk
    from pagecheck.vmm import Vm

Disks = Literal["none", "overlay"]
Then = Literal["run", "quit"]
Compress = Literal["zstd"]


class VmParts(Protocol):
    """What a VMM gives of its VM beside the RAM.

    Attributes:
        machine: what is known of the VM.
        state_bytes: what that takes at most, about; known from the beginning.
        state: the devices' state, once `take_state` was called; None where there is none.
        disks: what became of each disk, once `take_disks` was called.
    """

    disks: tuple[Disk, ...]

    @property
    def state_bytes(self) -> int:
        """See above."""

    @property
    def machine(self) -> Machine:
        """See above."""

    @property
    def state(self) -> bytes | None:
        """See above."""

    def prepare(self) -> None:
        """The VM is going to be stopped now, and all else is prepared."""

    def take_state(self) -> None:
        """The VM is stopped, and its RAM was not copied yet: that may change it."""

    def take_disks(self) -> None:
        """The VM is stopped, and its RAM is copied."""

    def after_failure(self) -> str:
        """What became of the VM's disks although nothing was saved; empty: nothing."""

    def wait_ended(self) -> None:
        """Waits for the end of the VMM, which was told to end."""


class RamAlone:
    """A VM of a VMM that saves its devices' state itself: nothing but the RAM is saved here."""

    def __init__(self, vm: Vm, disks: Disks | None, then: Then) -> None:
        """Raises UsageError where more than the RAM is asked for."""
        if disks == "overlay" or then == "quit":
            raise UsageError(
                f"{vm.text}: of its VM the RAM is saved, and nothing else; --disks overlay and "
                "--then quit are for qmp:SOCKET"
            )
        self.machine = Machine(vm.vmm, None, None, platform.machine() or None, None, ())
        self.state_bytes = 0
        self.state: bytes | None = None
        self.disks: tuple[Disk, ...] = ()

    def prepare(self) -> None:
        """There is nothing to do."""

    def take_state(self) -> None:
        """There is none."""

    def take_disks(self) -> None:
        """They are the VMM's."""

    def after_failure(self) -> str:
        """Nothing became of them."""
        return ""

    def wait_ended(self) -> None:
        """Never called."""
        raise AssertionError
