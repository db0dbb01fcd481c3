"""`pagecheck vms`: the VMs that run on this host."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click

from pagecheck.cli.streams import require_reader

if TYPE_CHECKING:
    from pagecheck.vmm.find.listing import RunningVm

_CODES: Final = """
\b
Exit codes:
  0  the VMs are listed, or there are none
  2  /proc is not of this pid namespace, or an invalid request
"""
_NAME_CHARS: Final = 40
_LEFT: Final = (1, 2, 4, 5, 6)  # columns of text; pid and RAM are numbers


@click.command(epilog=_CODES, short_help="List the VMs that run on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def vms(*, as_json: bool) -> int:
    """List the VMs that run on this host, and how to scan each.

    Nothing needs to be prepared in a VM, and none is touched: no socket is connected to and no
    memory is read. Listed are QEMU, Cloud Hypervisor, Firecracker, crosvm and VirtualBox by their
    names, and as "kvm" every other process that this user may inspect and that has a VM of KVM's.

    \b
      RAM       as the VM was started with it
      backing   shared: other processes can map it; private: only read through
                the VMM's process; hugetlb: huge pages; mixed: several of these
      readable  whether this user may read it; why not, and what to do about
                it, is below the table
      source    what to give to pagecheck scan. All but pid: can pause the VM,
                so that the answer is exact; pid: needs no socket

    \b
    Examples:
      pagecheck vms
      pagecheck scan --pause qmp:/run/vm1.qmp
      pagecheck scan pid:4711
      pagecheck vms --json | jq -r '.vms[] | select(.readable) | .sources[0]'
    """
    from pagecheck.vmm.find.listing import hidden_processes, list_vms

    require_reader()
    found = list_vms()
    hidden = hidden_processes()
    notes = [hidden] if hidden else []
    if as_json:
        print(json.dumps({"version": 1, "vms": [vm._asdict() for vm in found], "notes": notes}))
    else:
        print("\n".join([_table(found), *_below(found), *(f"note: {each}" for each in notes)]))
    return 0


def _table(found: list[RunningVm]) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable

    if not found:
        return "no VM that this user can see is running"
    rows = [["pid", "VMM", "name", "RAM", "backing", "readable", "source"]]
    for vm in found:
        rows.append(
            [
                str(vm.pid),
                vm.vmm,
                printable(vm.name or "-", _NAME_CHARS),
                "-" if vm.ram_bytes is None else size_text(vm.ram_bytes),
                vm.backing or "-",
                "yes" if vm.readable else "no",
                printable(", ".join(vm.sources)),
            ]
        )
    return columns(rows, _LEFT)


def _below(found: list[RunningVm]) -> list[str]:
    """Why some cannot be read, each reason once; and which sockets serve others."""
    from pagecheck.printable import printable

    reasons: dict[str, list[str]] = {}
    for vm in found:
        if not vm.readable:
            reasons.setdefault(f"{vm.why}; {vm.way_out}", []).append(str(vm.pid))
    lines = [f"{', '.join(pids)}: {printable(why)}" for why, pids in reasons.items()]
    for vm in found:
        for each in vm.in_use:
            lines.append(
                f"{vm.pid}: {printable(each)} has a client, and serves one at a time; give QEMU a "
                "second -qmp to pause this VM"
            )
    return lines
