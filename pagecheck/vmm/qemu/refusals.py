"""VMs of QEMU's that cannot be saved, by the name of what prevents it, before they are stopped.

`xen-save-devices-state` does not ask whether a device can be migrated, so it is asked here.
"""

from __future__ import annotations

import re
from typing import Final

from pagecheck.errors import SourceError
from pagecheck.printable import printable
from pagecheck.vmm.answers import NO_MIGRATION
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.qemu.asking import asked, human
from pagecheck.vmm.qemu.machine import devices, version_of

OLDEST: Final = (7, 2)
SAVE_DEVICES: Final = "xen-save-devices-state"

# Left out: others keep state of the guest's outside of its devices and its RAM (ppc64: the hash
# table of its pages, s390x: storage keys).
_ARCHITECTURES: Final = ("x86_64", "i386", "aarch64")

# The beginning of a device's type: what it is, and what can be done.
_DEVICES: Final = {
    "vfio-": ("the state of a host device is in the device; unplug it first (device_del)"),
    "vhost-user-": "its state is in another process; unplug it first (device_del)",
    "vhost-vdpa": "its state is in a host device; unplug it first (device_del)",
    "vhost-scsi": "its state is in the kernel; unplug it first (device_del)",
    "ivshmem": "others write to its memory while this VM is stopped; unplug it first (device_del)",
    "virtio-mem": (
        "QEMU would punch holes into the snapshot's RAM file when that is loaded; give memory by "
        "-m or pc-dimm instead"
    ),
}
BACKENDS: Final = re.compile(
    r"^[ \\]{0,4}([^\s:]{1,80}):[^\n]*?\btype=(vhost-user|vhost-vdpa)\b", re.MULTILINE
)
_SHOWN_CHARS: Final = 200


def require_savable(monitor: QemuMonitor) -> None:
    """Refuses a VM that cannot be saved.

    Raises:
        SourceError: it cannot; the message names what prevents it.
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    why = _too_old(monitor) or _migrating(monitor) or _device(monitor) or _blocked(monitor)
    if why:
        raise SourceError(f"{monitor.name}: cannot be saved: {why}")


def _too_old(monitor: QemuMonitor) -> str:
    version = version_of(monitor)
    shown = ".".join(map(str, version))
    if version[:2] < OLDEST:
        return f"is QEMU {shown}; QEMU {OLDEST[0]}.{OLDEST[1]} or later is needed"
    commands = asked(monitor, "query-commands").items()
    if not any(each.member("name").text() == SAVE_DEVICES for each in commands):
        return f"this QEMU {shown} was built without {SAVE_DEVICES}; use your distribution's"
    arch = asked(monitor, "query-target").member("arch").text()
    if arch not in _ARCHITECTURES:
        return f"its guest is {arch[:20]}; {', '.join(_ARCHITECTURES)} can be"
    return ""


def _migrating(monitor: QemuMonitor) -> str:
    status = asked(monitor, "query-migrate").optional("status")
    if status is not None and status.text() not in NO_MIGRATION:
        return f"it is being migrated ({status.text()[:40]}); wait for the end of that"
    return ""


def _device(monitor: QemuMonitor) -> str:
    for name, type_ in devices(monitor).items():
        for begin, why in _DEVICES.items():
            if type_.startswith(begin):
                return f"device {name} is {type_}: {why}"
    if found := BACKENDS.search(human(monitor, "info network")):
        return f"network {found[1]} is {found[2]}: its state is in another process"
    return ""


def _blocked(monitor: QemuMonitor) -> str:
    reasons = asked(monitor, "query-migrate").optional("blocked-reasons")
    shown = [] if reasons is None else [each.text() for each in reasons.items()]
    return printable("; ".join(shown), _SHOWN_CHARS)
