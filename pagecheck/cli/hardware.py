"""`pagecheck kernels` and `pagecheck devices`: what this machine can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pagecheck.cli.new_report import new_report
from pagecheck.cli.streams import require_reader

if TYPE_CHECKING:
    from pagecheck.hw.devices import Device
    from pagecheck.hw.probe import Probe


@click.command(short_help="List the CPU kernels and the one selected here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def kernels(*, as_json: bool) -> int:
    """List the CPU kernels of this architecture, best first.

    Each kernel passes a self-test on every byte position of a page before it is used.
    """
    from pagecheck.cli.present import columns
    from pagecheck.hw.kernels import list_kernels

    require_reader()
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


@click.command(short_help="List the DSA devices and work queues and why some cannot be used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
@click.option("--probe", is_flag=True, help="Test each usable queue, or those named.")
@click.option(
    "--out", metavar="FILE", help="With --probe: write all results to FILE, to report a problem."
)
@click.argument("wq", nargs=-1)
def devices(*, as_json: bool, probe: bool, out: str | None, wq: tuple[str, ...]) -> int:
    """List the Intel DSA devices of this host and their work queues.

    Each queue that looks usable is opened and closed at once, to determine how this user may submit
    descriptors. For a queue that cannot be used the reason and the repair are printed.

    With --probe each usable queue, or each WQ that is named (a device node, or model:), is tested:
    comparisons of a zero, a normal and an absent page, a batch, and a queue that is filled up. The
    completion records are shown as received, with a verdict. Exit code 1: one was wrong.
    """
    from pagecheck.hw.queues import list_devices, why_no_device

    require_reader()
    if probe:
        return _probe(list(wq), out, as_json=as_json)
    if wq or out is not None:
        raise click.UsageError("a WQ or --out goes with --probe; drop it, or add --probe")
    found = list_devices(probe=True)
    if as_json:
        print(json.dumps({"version": 1, "devices": [_device_json(device) for device in found]}))
    elif found:
        _print_devices(found)
    else:
        print(why_no_device())
    return 0


def _probe(names: list[str], out: str | None, *, as_json: bool) -> int:
    from pagecheck.errors import EngineError
    from pagecheck.hw.probe import probe
    from pagecheck.hw.queues import list_devices, why_no_device

    found = list_devices(probe=True)
    usable = [q.path for device in found for q in device.queues if q.unusable is None]
    if not names and not usable:
        why = why_no_device() if not found else "no queue is usable, 'pagecheck devices' shows why"
        raise EngineError(f"nothing to probe: {why}")
    with new_report(out) as write:
        probes = [probe(name) for name in names or usable]
        document = {
            "version": 1,
            "devices": [_device_json(device) for device in found],
            "probes": [each.to_json() for each in probes],
        }
        if out is not None:
            write({**document, **_host_facts()})
    if as_json:
        print(json.dumps(document))
    else:
        _print_probes(probes)
    return 0 if all(each.ok for each in probes) else 1


def _host_facts() -> dict[str, Any]:
    """The host and the state of sysfs, to report a problem."""
    import platform

    from pagecheck._version import __version__
    from pagecheck.hw.queues import cpu_facts, sysfs_facts

    host = {"pagecheck": __version__, "kernel": platform.release(), "machine": platform.machine()}
    return {"host": host | cpu_facts(), "sysfs": sysfs_facts()}


def _print_probes(probes: list[Probe]) -> None:
    for each in probes:
        print(f"{each.queue}: {'ok' if each.ok else 'WRONG'}")
        for step in each.steps:
            print(f"  {step.name:<12} {'ok' if step.ok else 'WRONG':<5}  {step.said}")
            if step.descriptor and not step.ok:
                print(f"{'descriptor':>20}  {step.descriptor}")
            for record in step.records[:1] if step.ok else step.records:
                print(f"{'record':>20}  {record}")


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
    from pagecheck.cli.present import columns

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
