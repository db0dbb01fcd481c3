"""`pagecheck kernels` and `pagecheck devices`: what this machine can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pagecheck.hw.queues import Device


@click.command(short_help="List the CPU kernels and which one is picked here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def kernels(*, as_json: bool) -> int:
    """List the CPU kernels of this architecture, best first.

    A kernel proves itself on every byte position of a page before it is used.
    """
    from pagecheck.hw.kernels import list_kernels
    from pagecheck.present import columns

    found = list_kernels()
    if as_json:
        entries = [
            {
                "name": kernel.name,
                "usable": kernel.unusable is None,
                "auto": kernel.automatic,
                "why": kernel.unusable,
                "untested": kernel.untested,
            }
            for kernel in found
        ]
        print(json.dumps({"version": 1, "kernels": entries}))
        return 0
    rows = [["kernel", "usable here", "auto"]]
    for kernel in found:
        usable = "yes" if kernel.unusable is None else f"no: {kernel.unusable}"
        rows.append([kernel.name, usable, "*" if kernel.automatic else ""])
    print(columns(rows))
    for kernel in found:
        if kernel.untested is not None:
            print(f"note: {kernel.name}: {kernel.untested}")
    return 0


@click.command(short_help="List the DSA devices and work queues and what is wrong with them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def devices(*, as_json: bool) -> int:
    """List the Intel DSA devices of this host and their work queues.

    Each queue that looks usable is opened for an instant and closed again, to learn how descriptors
    may be submitted by this user. For a queue that cannot be used it says why, and what to do.
    """
    from pagecheck.hw.queues import list_devices, why_no_device

    found = list_devices(probe=True)
    if as_json:
        print(json.dumps({"version": 1, "devices": [_device_json(device) for device in found]}))
    elif found:
        _print_devices(found)
    else:
        print(why_no_device())
    return 0


def _device_json(device: Device) -> dict[str, Any]:
    queues = [
        {
            "name": queue.name,
            "path": queue.path,
            "mode": queue.mode,
            "size": queue.size,
            "threshold": queue.threshold,
            "max_batch": queue.max_batch,
            "max_transfer": queue.max_transfer,
            "ats": queue.ats,
            "prs": queue.prs,
            "enqcmds_retries": queue.enqcmds_retries,
            "submit": queue.submit,
            "batches": queue.batches,
            "usable": queue.unusable is None,
            "why": queue.unusable,
            "note": queue.note,
        }
        for queue in device.queues
    ]
    return {
        "name": device.name,
        "version": device.version,
        "state": device.state,
        "cmd_status": device.cmd_status,
        "entries": device.entries,
        "numa_node": None if device.numa_node < 0 else device.numa_node,
        "max_batch": device.max_batch,
        "max_transfer": device.max_transfer,
        "usable": device.unusable is None,
        "why": device.unusable,
        "queues": queues,
    }


def _print_devices(found: list[Device]) -> None:
    """A table, then one line per reason; queues with the same reason share it."""
    from pagecheck.present import columns

    rows = [["", "mode", "size", "threshold", "batch", "transfer", "NUMA", "submit", "usable"]]
    reasons: dict[str, list[str]] = {}
    for device in found:
        limits = [str(device.max_batch), str(device.max_transfer)]
        numa = "-" if device.numa_node < 0 else str(device.numa_node)
        usable = "yes" if device.unusable is None else "no"
        kind = f"DSA {device.version >> 8}.{device.version & 0xFF}"
        rows.append([device.name, kind, "", "", *limits, numa, "", usable])
        if device.unusable is not None:
            reasons[device.unusable] = [*reasons.get(device.unusable, []), device.name]
        for queue in device.queues:
            entries = [str(queue.size), str(queue.threshold) if queue.threshold else "-"]
            batch = "no" if queue.submit and not queue.batches else str(queue.max_batch)
            usable = "yes" if queue.unusable is None else "no"
            row = [f"  {queue.name}", queue.mode, *entries, batch, str(queue.max_transfer), numa]
            rows.append([*row, queue.submit or "-", usable])
            why = queue.unusable or (f"note: {queue.note}" if queue.note else None)
            if why is not None and device.unusable is None:
                reasons[why] = [*reasons.get(why, []), queue.name]
    print(columns(rows))
    for why, names in reasons.items():
        print(f"{', '.join(names)}: {why}")
