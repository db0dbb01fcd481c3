"""Commands that set a work queue up again: always its whole configuration.

Facts: disabling a queue clears its type, name, mode, threshold, priority, block_on_fault, the ATS
and PRS settings, the transfer limit (2 MiB) and the batch limit (32), and gives op_config back
every opcode of the device; size, group and driver name stay. Only a disabled device takes a size,
and disabling it clears the sizes and groups of all its queues and engines too. A line that sets one
attribute would leave a queue that cannot be enabled, or that takes batches of 32.

Source: Linux drivers/dma/idxd/device.c (idxd_wq_disable_cleanup, idxd_device_clear_state) and
sysfs.c; linux/idxd.h (enum idxd_scmd_stat).
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.hw.devices import Device, WorkQueue

ENTRIES: Final = 128  # of every device so far, for all its queues together
BATCH: Final = 1024
TRANSFER: Final = 2 << 20
PRIORITY: Final = 10

_COMMAND_STATUS: Final = {
    0x80020000: "the device's DMA setup failed",
    0x80030000: "the queue is in no group",
    0x80040000: "the queue has no name",
    0x80050000: "no shared virtual addressing",
    0x80060000: "the shared queue has no threshold",
    0x80070000: "its portal cannot be mapped",
    0x80080000: "out of memory",
    0x800B0000: "the device node cannot be made",
    0x800C0000: "the device or IOMMU supports no shared queues",
    0x800D0000: "no queue is configured",
    0x800E0000: "the queue has no size",
    0x800F0000: "no privileged mode for a kernel queue",
    0x80100000: "its interrupt cannot be set up",
    0x80110000: "no PASID: boot with intel_iommu=on,sm_on",
    0x80120000: "the event log cannot be set up",
    0x80200000: "the queue has no driver name, or another one",
}


def set_up_queue(device: Device, queue: WorkQueue, *, enabled: bool, driver: bool) -> str:
    """The commands that give a queue, whose size and group stay, its whole configuration.

    Args:
        enabled: whether it has to be disabled first.
        driver: whether this kernel's queues have a driver name (Linux 6.7).
    """
    at = f"{device.name}/{queue.name}"
    first = f"accel-config disable-wq {at} && " if enabled else ""
    config = _configuration(device, queue, queue.size, driver=driver)
    return f"{first}accel-config config-wq {at} {config} && accel-config enable-wq {at}"


def set_up_device(device: Device, queue: WorkQueue, *, driver: bool) -> str:
    """The commands that give a queue entries: its device is set up anew, with only that queue."""
    at = f"{device.name}/{queue.name}"
    config = _configuration(device, queue, device.entries, driver=driver)
    engine = f"engine{device.name.removeprefix('dsa')}.0"
    return (
        f"accel-config disable-device {device.name} && "
        f"accel-config config-engine {device.name}/{engine} -g 0 && "
        f"accel-config config-wq {at} -g 0 -s {device.entries} {config} && "
        f"accel-config enable-device {device.name} && accel-config enable-wq {at}"
    )


def _configuration(device: Device, queue: WorkQueue, size: int, *, driver: bool) -> str:
    mode = "dedicated" if queue.mode == "dedicated" else "shared"
    threshold = f" -t {size}" if mode == "shared" else ""
    return (
        f"-m {mode} -y user -n pagecheck{' -d user' if driver else ''}{threshold} -p {PRIORITY} "
        f"-c {min(BATCH, device.max_batch) or BATCH} "
        f"-x {min(TRANSFER, device.max_transfer) or TRANSFER}"
    )


def last_command(status: int) -> str:
    """What a device's cmd_status adds to a reason: empty, or the number and its meaning."""
    if not status:
        return ""
    meaning = _COMMAND_STATUS.get(status)
    return f" (cmd_status {status:#x}{f', {meaning}' if meaning else ''})"
