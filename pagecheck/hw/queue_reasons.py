"""Why a work queue cannot be used, or only slowly: one line each, with the fix.

docs/hardware.md lists the messages for those who look one up.

Danger: sysfs hides the opcode BATCH of every device on which the kernel refuses batches by
write(2), although a batch through a mapped portal works there.
Decision: only an `op_config` without BATCH beside an `op_cap` with it forbids batches; where both
lack it, only write(2) cannot send them.

Source: Linux drivers/dma/idxd/sysfs.c (op_cap_show_common) and cdev.c.
"""

from __future__ import annotations

import errno
import os

from pagecheck.hw.devices import PAGE_BYTES
from pagecheck.hw.repairs import last_command, set_up_device, set_up_queue
from pagecheck.hw.sysfs import DOCUMENT, printable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.hw.devices import Device, Host, WorkQueue
    from pagecheck.hw.sysfs import Folder

INSTRUCTIONS: Final = {"shared": "enqcmd", "dedicated": "movdir64b"}
BATCH: Final = 1 << 1  # opcodes as bits of op_cap and op_config
COMPARE_PATTERN: Final = 1 << 6
VERSION_2: Final = 0x200


def device_refused(device: Device, *, pasid: bool) -> str | None:
    """Why nothing on the device can be used, or None."""
    if not pasid:
        return (
            "no PASID (pasid_enabled is 0), so it cannot use a process's addresses; "
            "boot with intel_iommu=on,sm_on and switch VT-d on in the firmware"
        )
    if device.state == "halted":
        return "state is halted, an error stopped it; see dmesg, then load the idxd driver again"
    if device.state != "enabled":
        return (
            f"state is {device.state}{last_command(device.cmd_status)}; "
            f"accel-config enable-device {device.name}, or set it up as in {DOCUMENT}"
        )
    return None


def misconfigured(device: Device, queue: WorkQueue, files: Folder, opcodes: int) -> str | None:
    """Why sysfs shows the queue as unusable, or None."""
    wrong = _wrong_attribute(queue, files, opcodes)
    state = files.text("state")
    driver = files.has("driver_name")
    if files.problem is not None:
        return files.problem
    if queue.size == 0 and files.text("type") == "none":
        return f"not configured (type is none); set it up as in {DOCUMENT}"
    if wrong is not None and queue.size == 0:
        return (
            f"{wrong}; only a disabled device takes a size, which clears its other queues: "
            f"{set_up_device(device, queue, driver=driver)}"
        )
    if wrong is not None:
        return f"{wrong}; {repair(device, queue, files)}"
    if state != "enabled":
        failed = last_command(device.cmd_status)
        return f"state is {state}{failed}; accel-config enable-wq {queue.device}/{queue.name}"
    return None


def repair(device: Device, queue: WorkQueue, files: Folder) -> str:
    """The commands that give a queue the configuration that pagecheck wants."""
    enabled = files.text("state") == "enabled"
    return set_up_queue(device, queue, enabled=enabled, driver=files.has("driver_name"))


def _wrong_attribute(queue: WorkQueue, files: Folder, opcodes: int) -> str | None:
    kind = files.text("type")
    driver = files.text("driver_name", "user")  # since Linux 6.7
    if kind == "none":
        return "not configured (type is none)"
    if kind != "user":
        return f"type is {kind}, not user"
    if driver != "user":
        return f"driver_name is {driver!r}, not user"
    if queue.size == 0:
        return "size is 0 entries"
    if queue.mode == "shared" and queue.threshold == 0:
        return "threshold is 0 entries"
    if not files.text("name", "unknown"):
        return "it has no name, without which it cannot be enabled"
    if queue.max_transfer < PAGE_BYTES:
        return f"max_transfer_size is {queue.max_transfer} bytes, less than a page of {PAGE_BYTES}"
    if not opcodes & COMPARE_PATTERN:
        return "op_config (or the device's op_cap) lacks COMPVAL, bit 6"
    return None


def unopenable(host: Host, queue: WorkQueue) -> str | None:
    """Why the device node cannot be used, or None; opens nothing."""
    try:
        node = os.stat(queue.path)
    except FileNotFoundError:
        return (
            f"{queue.path} does not exist; start udev, or give the container --device {queue.path}"
        )
    except OSError as error:
        return f"{queue.path}: {error.strerror}; see {DOCUMENT}"
    if host.may_open(queue.path):
        return None
    return (
        f"{queue.path}: no permission (mode {node.st_mode & 0o7777:04o}, owner {node.st_uid}, "
        f"group {node.st_gid}; this is user {os.geteuid()}, group {os.getegid()}); "
        f"chgrp and chmod 660, or a udev rule, see {DOCUMENT}"
    )


def with_submission(
    host: Host, queue: WorkQueue, opcodes: int, op_cap: int, again: str, *, probe: bool
) -> WorkQueue:
    """The queue with how it would be submitted to, or with why it cannot be.

    Args:
        again: the commands that configure it as it should be.
    """
    submit = INSTRUCTIONS[queue.mode]
    notes = []
    lacking = host.cpu_why_not(submit)
    mapped, unusable = _try_to_map(host, queue) if probe else (True, None)
    if unusable is not None:
        return queue._replace(unusable=unusable)
    if lacking is not None:
        submit = "write"
        notes.append(f"{printable(lacking, 80)}: submits by write(2); use a CPU or VM that has it")
    elif not mapped:
        submit = "write"
        notes.append(
            "mapping the portal is not permitted: submits by write(2); "
            f"give the process CAP_SYS_RAWIO, see {DOCUMENT}"
        )
    no_batches = _why_no_batches(queue, submit, opcodes, op_cap, again)
    if no_batches is not None:
        notes.append(no_batches)
    notes += _costly_faults(queue, again)
    return queue._replace(
        submit=submit, batches=no_batches is None, note="; ".join(notes) if notes else None
    )


def _try_to_map(host: Host, queue: WorkQueue) -> tuple[bool, str | None]:
    """Whether the portal may be mapped, and why the queue cannot be used at all, or None."""
    try:
        refusal = host.probe_map(queue.path)
    except OSError as error:
        return False, _open_refused(queue, error.errno or errno.EIO)
    if refusal == errno.EBUSY:
        return False, _open_refused(queue, refusal)
    if refusal not in (0, errno.EPERM):
        why = f"{queue.path}: mapping the portal: {os.strerror(refusal)}; see {DOCUMENT}"
        return False, why
    return refusal == 0, None


def _open_refused(queue: WorkQueue, code: int) -> str:
    if code == errno.EBUSY:
        return (
            f"{queue.path} is in use by another process (a dedicated queue serves one); "
            "end that process, or configure a shared queue"
        )
    if code in (errno.EPERM, errno.EACCES):
        return (
            f"{queue.path}: opening it: {os.strerror(code)}; in a container give it "
            f"--device {queue.path}, else see {DOCUMENT}"
        )
    return f"{queue.path}: opening it: {os.strerror(code)}; see dmesg and {DOCUMENT}"


def _costly_faults(queue: WorkQueue, again: str) -> list[str]:
    """Settings with which a fault costs more than the page: notes."""
    found = []
    if not queue.ats:
        found.append(
            "ats_disable is 1: records that the device cannot write are lost silently, "
            f"each makes pagecheck abandon the queue; {again}"
        )
    elif not queue.prs:
        found.append(
            "prs_disable is 1: the device waits for no page, so that a list or record that the "
            f"kernel moved fails its batch; {again}"
        )
    return found


def _why_no_batches(
    queue: WorkQueue, submit: str, opcodes: int, op_cap: int, again: str
) -> str | None:
    if queue.max_batch < 2:
        return f"no batches: max_batch_size is {queue.max_batch}; {again}"
    if op_cap & BATCH and not opcodes & BATCH:
        return f"no batches: op_config lacks BATCH, bit 1; {again}"
    if submit != "write":
        return None
    if queue.version < VERSION_2:
        return (
            f"no batches: the kernel refuses them by write(2) on version {queue.version:#x} "
            f"devices; map the portal instead, see {DOCUMENT}"
        )
    if not op_cap & BATCH:
        return (
            "no batches: this kernel refuses them by write(2) on every device; "
            f"take one with commit 31f04b537152 or map the portal, see {DOCUMENT}"
        )
    return None
