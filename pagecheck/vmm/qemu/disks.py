"""The writable disks of a VM, and what a save must be told about them.

Facts: RAM holds what the guest knows of its disks; RAM of one moment with disks of another destroys
a file system. Flash of the firmware is a RAM block, which is saved, and written back by the QEMU
that loads it. Danger: a disk that goes on changing. Decision: where a writable disk is attached the
user says what becomes of it, before the VM is stopped. What another QEMU can see of a disk that was
written since is the time of its file.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pagecheck.child.signals import signals_held
from pagecheck.errors import PeerError, UsageError
from pagecheck.shortage import no_thread
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.qemu.asking import asked

LOOK_S: Final = 1.0  # at the files of disks, in a pause

_FLASH: Final = "cfi.pflash"
_TEMPORARY: Final = re.compile(r"/vl\.[A-Za-z0-9]{6}$")  # of snapshot=on; it has no name any more


class Disk(NamedTuple):
    """A writable disk.

    Attributes:
        device: what the user calls it: the drive's id, or the path of its device.
        drive: the drive's id; empty for one of -blockdev.
        node: QEMU's name of its top block node.
        file: its file as QEMU knows it; absolute where it is a path.
        path: the same where it is an absolute path, else empty.
        format: the driver of its top node, such as "qcow2".
        size: bytes that the guest sees.
        direct, no_flush: how its file is cached.
        is_temporary: what the guest writes ends with QEMU (snapshot=on).
    """

    device: str
    drive: str
    node: str
    file: str
    path: str
    format: str
    size: int
    direct: bool
    no_flush: bool
    is_temporary: bool


def writable_disks(monitor: QemuMonitor, *, looks: bool = True) -> list[Disk]:
    """The disks that the guest can write now; flash of the firmware is none.

    Args:
        looks: whether to look for a file of a relative name, which may be anywhere.

    Raises:
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    found = []
    for each in asked(monitor, "query-block").items():
        medium, qdev = each.optional("inserted"), each.optional("qdev")
        if medium is None or qdev is None or medium.member("ro").flag():
            continue
        if not _is_flash(monitor, qdev.text()):
            where = monitor if looks else None
            found.append(_disk(where, each.member("device").text(), qdev.text(), medium))
    return found


def require_choice(text: str, disks: list[Disk], choice: str | None, then: str) -> None:
    """Refuses a save that does not say what becomes of the disks.

    Args:
        text: the source, for messages.
        disks: the writable ones.
        choice: "none", "overlay" or None: nothing was said.
        then: "run" or "quit".

    Raises:
        UsageError: nothing was said, or it cannot be done.
    """
    if not disks or choice == "none":
        return
    for each in disks:
        if each.is_temporary:
            raise UsageError(
                f"{text}: disk {each.device} was started with snapshot=on: what the guest wrote "
                "there ends with QEMU; only --disks none is left"
            )
    if choice is None and then != "quit":
        names = ", ".join(each.device for each in disks)
        raise UsageError(
            f"{text}: disk {names} can be written: RAM without the disks of the same moment is of "
            "no use; say --disks overlay (the VM goes on in new overlays), --then quit (the VM "
            "ends), or --disks none (the disks are your own matter)"
        )


def written_at(disks: Sequence[Disk]) -> list[int | None]:
    """When the file of each was last written, in nanoseconds since 1970; None where that is not
    known from here, or tells nothing (a device), or its file system does not answer in a second:
    the VM is stopped meanwhile.

    Raises:
        ResourceError: no thread can be started.
    """
    found: list[int | None] = [None] * len(disks)

    def look() -> None:
        for number, disk in enumerate(disks):
            found[number] = _last_written(disk.path)

    if disks:
        thread = threading.Thread(target=look, name="pagecheck-disks", daemon=True)
        try:
            with signals_held():  # it may be left behind, and takes none that is held later
                thread.start()
        except RuntimeError as error:
            raise no_thread("looking at disks", error) from error
        thread.join(LOOK_S)
    return list(found)


def _last_written(path: str) -> int | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def disk_values(
    disk: Disk, kept: str, written: int | None, overlay: str | None = None
) -> dict[str, Any]:
    """What a manifest keeps of a disk.

    Args:
        kept: "overlay", "quit" or "none": how its content is kept.
        written: what `written_at` gave while the VM was stopped: a disk that was written since is
            not the snapshot's any more.
        overlay: the file that the VM writes to since.
    """
    return {
        "device": disk.device,
        "path": disk.file,
        "format": disk.format,
        "writable": True,
        "kept": kept,
        "overlay": overlay,
        "node": disk.node,
        "size": disk.size,
        "written_ns": written,
    }


def _is_flash(monitor: QemuMonitor, qdev: str) -> bool:
    try:
        return asked(monitor, "qom-get", path=qdev, property="type").text().startswith(_FLASH)
    except PeerError:  # a device that was unplugged since is not flash
        return False


def _disk(monitor: QemuMonitor | None, drive: str, qdev: str, medium: Answer) -> Disk:
    file, cache = medium.member("file").text(), medium.member("cache")
    path = _absolute(monitor, file)
    return Disk(
        device=drive or qdev.removesuffix("/virtio-backend"),
        drive=drive,
        node=medium.member("node-name").text(),
        file=path or file,
        path=path,
        format=medium.member("drv").text(),
        size=medium.member("image").member("virtual-size").size(),
        direct=cache.member("direct").flag(),
        no_flush=cache.member("no-flush").flag(),
        is_temporary=any(_TEMPORARY.search(each) for each in _names(file)),
    )


def _absolute(monitor: QemuMonitor | None, file: str) -> str:
    """The path of a file; empty where it is something else, or may not be looked for (None)."""
    if file.startswith("/"):
        return file
    if not file or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", file):
        return ""
    if monitor is None or monitor.peer_pid <= 0:
        return ""
    try:
        folder = os.readlink(f"/proc/{monitor.peer_pid}/cwd")
    except OSError:
        return ""
    path = os.path.join(folder, file)
    return path if os.path.exists(path) else ""  # one that became a daemon is elsewhere by now


def _names(file: str) -> list[str]:
    """The file names in what QEMU calls a file."""
    if not file.startswith("json:"):
        return [file]
    try:
        return list(_inner(json.loads(file.removeprefix("json:"))))
    except (ValueError, RecursionError):
        return [file]


def _inner(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    names = [value["filename"]] if isinstance(value.get("filename"), str) else []
    return names + [name for each in value.values() for name in _inner(each)]
