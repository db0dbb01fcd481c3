"""The state of QEMU's devices, saved while its VM is stopped.

Facts: `xen-save-devices-state` needs no Xen and writes all devices and no RAM, in some ms. With
`live: true` it gives the disks of a stopped VM away, as a migration does; `live: false` leaves
them. It opens a file by name, in QEMU's main thread. Danger: a disk that stalls would stall QEMU,
which could not be continued then. Decision: QEMU writes into a memfd of ours, by its descriptor
(`add-fd`), which also works where it may open no file; what it wrote is checked to be whole.

Source: qmp_xen_save_devices_state() in QEMU's migration/savevm.c.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from pagecheck.errors import PeerError, SourceError
from pagecheck.shortage import refused
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.memory import Admit
from pagecheck.vmm.qemu.blocks import SavedBlock, SmallBlocks

DEVICES_BEGIN: Final = b"QEVM\0\0\0\x03"  # magic and version of a stream
_FULL_SECTION: Final = 0x04
_FOOTER: Final = 0x7E
_FOOTER_BYTES: Final = 5  # and the number of its section


class SavedState(NamedTuple):
    """What a VM is beside its guest RAM, at one moment.

    Attributes:
        devices: what QEMU wrote: a stream's header, the sections of all devices, an end.
        blocks: the RAM blocks that no file holds.
    """

    devices: bytes
    blocks: tuple[SavedBlock, ...]


class DeviceState:
    """A QEMU whose state can be saved at once; a context manager."""

    def __init__(
        self, monitor: QemuMonitor, carried: Collection[str], admit: Admit | None = None
    ) -> None:
        """Prepares all that can be done while the VM runs.

        Args:
            carried: names of the RAM blocks that files hold.
            admit: as of a `ProcessMemory`.

        Raises:
            SourceError: a RAM block beside those cannot be found or read.
            PeerError: QEMU refuses something, or does not answer.
            ResourceError: no memfd can be made.
        """
        self._monitor = monitor
        self._file = _new_file(monitor.name)
        self._set: int | None = None
        self._blocks: SmallBlocks | None = None
        try:
            self._blocks = SmallBlocks(monitor, carried, admit)
            answer = monitor.execute("add-fd", (self._file,))
            self._set = Answer(monitor.name, "add-fd", answer).member("fdset-id").size()
        except BaseException:
            self.close()
            raise

    @property
    def small_bytes(self) -> int:
        """Bytes of the RAM blocks that no file holds; what is absent of them is not saved."""
        return 0 if self._blocks is None else self._blocks.size

    def save(self) -> SavedState:
        """Saves it; the VM is stopped.

        Raises:
            SourceError: RAM blocks came or went, or one cannot be read.
            PeerError: QEMU does not save its devices.
        """
        assert self._blocks is not None
        name = self._monitor.name
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)  # QEMU's descriptor has the same position
        path = f"/dev/fdset/{self._set}"
        self._monitor.execute("xen-save-devices-state", filename=path, live=False)
        with open(f"/proc/self/fd/{self._file}", "rb") as file:
            devices = file.read()
        _require_whole(name, devices)
        return SavedState(devices, self._blocks.read())

    def close(self) -> None:
        """Takes the descriptor back from QEMU. May be called twice."""
        if self._set is not None:
            which: dict[str, Any] = {"fdset-id": self._set}
            with contextlib.suppress(PeerError, SourceError):  # it ended, or was connected to again
                self._monitor.execute("remove-fd", **which)
            self._set = None
        if self._blocks is not None:
            self._blocks.close()
        if self._file >= 0:
            os.ftruncate(self._file, 0)  # QEMU 7.2 keeps its descriptor while a VM is stopped
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> DeviceState:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _new_file(name: str) -> int:
    """A memfd that can only be written: QEMU takes no other for a file that it writes."""
    try:
        fd = os.memfd_create("pagecheck-devices")
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(f"{name}: cannot save its devices", error, "memfd_create") from error


def _require_whole(name: str, devices: bytes) -> None:
    begins = devices.startswith(DEVICES_BEGIN + bytes((_FULL_SECTION,)))
    ends = devices[-1:] == b"\0" and devices[-1 - _FOOTER_BYTES : -_FOOTER_BYTES] == bytes(
        (_FOOTER,)
    )
    if not begins or not ends:
        raise PeerError(
            f"{name}: what QEMU saved of its devices ({len(devices)} bytes) is not whole, or of a "
            "form that is not known"
        )
