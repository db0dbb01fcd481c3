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

from pagecheck.hw.sysfs import DOCUMENT, printable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.hw.queues import Device, Host, WorkQueue
    from pagecheck.hw.sysfs import Folder

INSTRUCTIONS: Final = {"shared": "enqcmd", "dedicated": "movdir64b"}
BATCH: Final = 1 << 1  # opcodes as bits of op_cap and op_config
COMPARE_PATTERN: Final = 1 << 6
PAGE_BYTES: Final = 4096
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
        return f"state is {device.state}; accel-config enable-device {device.name}"
    return None


def misconfigured(queue: WorkQueue, files: Folder, opcodes: int) -> str | None:
    """What sysfs says against the queue, or None."""
    at = f"{queue.device}/{queue.name}"
    kind = files.text("type")
    driver = files.text("driver_name", "user")  # since Linux 6.7
    state = files.text("state")
    if files.problem is not None:
        return files.problem
    if kind == "none":
        return f"not configured (type is none); accel-config config-wq, see {DOCUMENT}"
    again = f"accel-config disable-wq {at}, config-wq {at}"
    if kind != "user":
        return f"type is {kind}, not user; {again} -y user -n pagecheck -d user, enable-wq {at}"
    if driver != "user":
        return f"driver_name is {driver!r}, not user; {again} -d user, enable-wq {at}"
    if queue.size == 0:
        return (
            f"size is 0 entries; accel-config disable-device {queue.device}, "
            f"config-wq {at} -s 128, enable-device {queue.device}, enable-wq {at}"
        )
    if queue.mode == "shared" and queue.threshold == 0:
        return f"threshold is 0 entries; {again} -t {max(queue.size - 1, 1)}, enable-wq {at}"
    if queue.max_transfer < PAGE_BYTES:
        return (
            f"max_transfer_size is {queue.max_transfer} bytes, less than a page of {PAGE_BYTES}; "
            f"{again} -x 2097152, enable-wq {at}"
        )
    if not opcodes & COMPARE_PATTERN:
        return (
            "op_config (or the device's op_cap) lacks COMPVAL, bit 6; "
            f"accel-config disable-wq {at}, write a mask with bit 6 to op_config, enable-wq {at}"
        )
    if state != "enabled":
        return f"state is {state}; accel-config enable-wq {at}"
    return None


def unopenable(host: Host, queue: WorkQueue) -> str | None:
    """What the device node says against the queue, or None; opens nothing."""
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
    host: Host, queue: WorkQueue, opcodes: int, op_cap: int, *, probe: bool
) -> WorkQueue:
    """The queue with how it would be submitted to, or with why it cannot be."""
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
    no_batches = _why_no_batches(queue, submit, opcodes, op_cap)
    if no_batches is not None:
        notes.append(no_batches)
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


def _why_no_batches(queue: WorkQueue, submit: str, opcodes: int, op_cap: int) -> str | None:
    at = f"{queue.device}/{queue.name}"
    if queue.max_batch < 2:
        return (
            f"no batches: max_batch_size is {queue.max_batch}; "
            f"accel-config disable-wq {at}, config-wq {at} -c 1024, enable-wq {at}"
        )
    if op_cap & BATCH and not opcodes & BATCH:
        return (
            "no batches: op_config lacks BATCH, bit 1; "
            f"accel-config disable-wq {at}, write a mask with bit 1 to op_config, enable-wq {at}"
        )
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
