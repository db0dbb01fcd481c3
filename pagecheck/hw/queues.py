"""Intel DSA work queues as sysfs describes them, and for each why it cannot be used, and the fix.

Facts: a queue is usable if its device and itself are enabled, it is of type user, it may compare
patterns, its node can be opened, and descriptors can be submitted: by ENQCMD (shared) or MOVDIR64B
(dedicated) through a mapping of its portal, or by write(2), which the kernel offers since it wants
CAP_SYS_RAWIO for that mapping (Linux 6.10, CVE-2024-21823).
`queue_reasons.py` has the reasons. Nothing is submitted here.

Source: Linux drivers/dma/idxd/sysfs.c and cdev.c, Documentation/ABI/stable/sysfs-driver-dma-idxd.
"""

from __future__ import annotations

import os

from pagecheck.errors import EngineError
from pagecheck.hw import presence
from pagecheck.hw.devices import Device, Host, WorkQueue
from pagecheck.hw.queue_reasons import (
    INSTRUCTIONS,
    device_refused,
    misconfigured,
    repair,
    unopenable,
    with_submission,
)
from pagecheck.hw.repairs import ENTRIES
from pagecheck.hw.sysfs import Folder, attributes, digits, names, printable


def list_devices(host: Host | None = None, *, probe: bool = False) -> list[Device]:
    """Every DSA device with all its queues, in order; no IAX devices.

    Args:
        probe: open each queue that looks usable for an instant, to learn whether it is in use and
            whether its portal may be mapped. Without it nothing is opened, `submit` assumes that
            the mapping is permitted, and a dedicated queue in use looks usable.
    """
    host = host or Host()
    return [_device(host, number, probe=probe) for number in _device_numbers(host)]


def usable_queues(host: Host | None = None, *, probe: bool = False) -> list[WorkQueue]:
    """The queues with `unusable` None, in order of device, then queue; `probe` as above."""
    devices = list_devices(host, probe=probe)
    return [queue for device in devices for queue in device.queues if queue.unusable is None]


def find_queue(path: str, host: Host | None = None, *, probe: bool = False) -> WorkQueue:
    """The queue behind a device node, usable or not.

    Args:
        path: such as /dev/dsa/wq0.0.
        probe: as for `list_devices`; only this queue is opened.

    Raises:
        EngineError: there is no such queue; the message lists those that exist.
    """
    host = host or Host()
    folder, name = os.path.split(os.path.normpath(path))
    numbers = _queue_numbers(name)
    shown = printable(path, 200)
    if folder != os.path.normpath(f"{host.dev}/dsa") or numbers is None:
        example = f"{host.dev}/dsa/wq0.0"
        raise EngineError(f"{shown}: not a DSA work queue such as {example}; {_choice(host)}")
    if not os.path.isdir(f"{host.devices}/dsa{numbers[0]}/{name}"):
        raise EngineError(f"{shown}: sysfs knows no such work queue; {_choice(host)}")
    files = Folder(f"{host.devices}/dsa{numbers[0]}")
    op_cap = files.opcodes("op_cap")
    return _queue(host, _device_itself(files, numbers[0]), op_cap, numbers, probe=probe)


def open_state(queue: WorkQueue, host: Host | None = None) -> int:
    """Opens the attribute that distinguishes a full queue from a disabled one.

    Returns:
        A descriptor, or -1 where it cannot be opened.
    """
    path = f"{(host or Host()).devices}/{queue.device}/{queue.name}/state"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def why_no_device(host: Host | None = None) -> str:
    """One line: what is missing where `list_devices` finds nothing."""
    return presence.why_no_device((host or Host()).devices)


def cpu_facts(host: Host | None = None) -> dict[str, str]:
    """What this CPU lacks of the submission instructions, or "yes" for each, for a report."""
    host = host or Host()
    return {name: host.cpu_why_not(name) or "yes" for name in ("enqcmd", "movdir64b", "umwait")}


def sysfs_facts(host: Host | None = None) -> dict[str, dict[str, str]]:
    """Every attribute of every DSA device and queue, by folder below sysfs' devices, for a
    report."""
    host = host or Host()
    facts = {}
    for number in _device_numbers(host):
        device = f"dsa{number}"
        parts = [each for each in names(f"{host.devices}/{device}") if each[:2] in ("wq", "en")]
        for folder in (device, *(f"{device}/{each}" for each in sorted(parts))):
            facts[folder] = attributes(f"{host.devices}/{folder}")
    return facts


def _choice(host: Host) -> str:
    devices = list_devices(host)
    if not devices:
        return why_no_device(host)
    usable = [q.path for device in devices for q in device.queues if q.unusable is None]
    if not usable:
        return "no work queue is usable here, 'pagecheck devices' says why"
    more = f" and {len(usable) - 8} more" if len(usable) > 8 else ""
    return f"usable here: {', '.join(usable[:8])}{more}"


def _device_numbers(host: Host) -> list[int]:
    entries = {name: digits(name.removeprefix("dsa")) for name in names(host.devices)}
    return sorted(n for name, n in entries.items() if n is not None and name == f"dsa{n}")


def _device(host: Host, number: int, *, probe: bool) -> Device:
    files = Folder(f"{host.devices}/dsa{number}")
    op_cap = files.opcodes("op_cap")
    device = _device_itself(files, number)
    numbers = sorted(n for n in map(_queue_numbers, names(files.path)) if n and n[0] == number)
    return device._replace(
        queues=tuple(_queue(host, device, op_cap, n, probe=probe) for n in numbers)
    )


def _device_itself(files: Folder, number: int) -> Device:
    device = Device(
        name=f"dsa{number}",
        version=files.number("version"),
        state=files.text("state"),
        cmd_status=files.number("cmd_status", 0),
        entries=files.number("max_work_queues_size", ENTRIES) or ENTRIES,
        numa_node=files.number("numa_node", -1),
        max_batch=files.number("max_batch_size"),
        max_transfer=files.number("max_transfer_size"),
        queues=(),
        unusable=None,
    )
    pasid = files.number("pasid_enabled") != 0
    return device._replace(unusable=files.problem or device_refused(device, pasid=pasid))


def _queue(
    host: Host, device: Device, op_cap: int, numbers: tuple[int, int], *, probe: bool
) -> WorkQueue:
    """One queue, with the first reason against it in the order in which its owner would fix it."""
    name = f"wq{numbers[0]}.{numbers[1]}"
    files = Folder(f"{host.devices}/{device.name}/{name}")
    mode = files.text("mode")
    if mode not in INSTRUCTIONS:
        files.refuse("mode", mode, "neither shared nor dedicated")
        mode = "unknown"
    size = files.number("size")
    queue = WorkQueue(
        name=name,
        path=f"{host.dev}/dsa/{name}",
        device=device.name,
        mode=mode,
        size=size,
        threshold=min(files.number("threshold"), size) if mode == "shared" else 0,
        max_batch=min(files.number("max_batch_size"), device.max_batch),
        max_transfer=min(files.number("max_transfer_size"), device.max_transfer),
        version=device.version,
        numa_node=device.numa_node,
        submit=None,
        batches=False,
        unusable=None,
        note=None,
        ats=files.number("ats_disable", 0) == 0,
        prs=files.number("prs_disable", 0) == 0,
        enqcmds_retries=files.number("enqcmds_retries", 0),
    )
    opcodes = files.opcodes("op_config", op_cap)  # absent where the device cannot restrict them
    why = f"device {device.name}: {device.unusable}" if device.unusable else None
    why = why or misconfigured(device, queue, files, opcodes) or unopenable(host, queue)
    if why is not None:
        return queue._replace(unusable=why)
    again = repair(device, queue, files)
    return with_submission(host, queue, opcodes, op_cap, again, probe=probe)


def _queue_numbers(name: str) -> tuple[int, int] | None:
    """(device, queue) of a name such as wq0.1."""
    device, dot, queue = name.removeprefix("wq").partition(".")
    first, second = digits(device), digits(queue)
    if first is None or second is None or name != f"wq{first}{dot}{second}":
        return None
    return first, second
