"""Who may write to a VM's RAM although the VM is stopped.

Facts: `stop` ends what QEMU's own devices and vhost's kernel threads do; a device of the host's
that was given to the guest (VFIO, vDPA), or one in another process (vhost-user), goes on, by pages
that are pinned for it or by a mapping of its own. Decision: a device's name, a descriptor, a pinned
page or another process's mapping is enough. Left unhandled: processes that cannot be seen from
here; with root's rights, in the host's pid namespace, all can.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Final

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.kinds import FIRECRACKER
from pagecheck.vmm.qemu.asking import human
from pagecheck.vmm.qemu.machine import devices
from pagecheck.vmm.qemu.refusals import BACKENDS

if TYPE_CHECKING:
    from pagecheck.vmm.hold.pause import VmmMonitor

_DEVICES: Final = ("vfio-", "vhost-user-", "vhost-vdpa")
_PATHS: Final = ("/dev/vfio/", "/dev/iommu", "/dev/vhost-vdpa", "/dev/infiniband/")
_PINNED: Final = re.compile(r"^VmPin:\s*(\d+) kB$", re.MULTILINE)


def other_writer(monitor: VmmMonitor) -> str:
    """What may write to the RAM of a VM that is stopped, as far as its VMM shows it.

    Returns:
        Empty: nothing does.

    Raises:
        SourceError: the VMM's process cannot be inspected.
        PeerError: the VMM does not answer.
    """
    if monitor.kind is FIRECRACKER:
        return "Firecracker serves the network while the VM is paused"
    found = _of_qemu(monitor) if isinstance(monitor, QemuMonitor) else ""
    return found or _of_process(monitor.name, monitor.peer_pid)


def _of_qemu(monitor: QemuMonitor) -> str:
    for name, kind in devices(monitor).items():
        if kind.startswith(_DEVICES):
            return f"device {name} is {kind}"
    with contextlib.suppress(PeerError):  # built without networks
        if found := BACKENDS.search(human(monitor, "info network")):
            return f"network {found[1]} is {found[2]}"
    return ""


def _of_process(name: str, pid: int) -> str:
    folder = f"/proc/{pid}"
    try:
        if pid <= 0:
            raise ProcessLookupError
        with open(f"{folder}/status", encoding="utf-8", errors="replace") as file:
            pinned = _PINNED.search(file.read())
        numbers = os.listdir(f"{folder}/fd")
    except OSError as error:
        raise SourceError(
            f"{name}: its process cannot be inspected, so that it is not known whether a device "
            "writes to its RAM; run pagecheck as root, in the pid namespace of the VMM"
        ) from error
    if pinned and int(pinned[1]):
        return f"{pinned[1]} KiB of process {pid} are pinned for a device"
    for number in numbers:
        with contextlib.suppress(OSError):  # closed since
            if (link := os.readlink(f"{folder}/fd/{number}")).startswith(_PATHS):
                return f"process {pid} has {link} open"
    return ""
