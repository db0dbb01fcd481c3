"""The running VMs of this host, found among its processes.

Danger: a process ends, or its id becomes another's, while it is looked at. Decision: psutil walks
the processes and their command lines; one that is a VMM is looked at through a pidfd, and left out
if it ended. Nothing is connected to, and no VM's memory is read.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import psutil

from pagecheck.errors import SourceError
from pagecheck.vmm.find.backing import ram_as_started, ram_of
from pagecheck.vmm.find.confidential import confidential_descriptor
from pagecheck.vmm.find.search import NEVER_PRIVATE
from pagecheck.vmm.options.command_line import KVM, KVM_VM, command_line_of
from pagecheck.vmm.options.programs import vmm_of
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.options.reach import descriptors, reach_of
from pagecheck.vmm.options.vmm_options import VIRTUALBOX
from pagecheck.vmm.process.access import Refusal, may_inspect, may_read
from pagecheck.vmm.process.memory import ProcessMemory


class RunningVm(NamedTuple):
    """A VM that runs on this host.

    Attributes:
        pid: of the VMM's process; `pid:PID` is a source.
        uid: the user that it runs as.
        vmm: "QEMU", "Cloud Hypervisor", "Firecracker", "crosvm", "VirtualBox", or "kvm" for another
            one.
        name: the VM's; None where its command line has none.
        ram_bytes: guest RAM, as the VM was started with it; None where that is not known.
        backing: "shared" or "private"; "hugetlb": in huge pages; "mixed"; None where that is not
            known.
        sources: how to reach it, the best first: `qmp:`, `fc:`, `ch:` and `crosvm:` with the paths
            of its sockets, and `pid:`.
        in_use: its QMP sockets that already have a client, such as libvirt, so that they serve
            nobody else.
        readable: whether this user may read its RAM.
        why: why not; None where it is readable.
        way_out: what to do; None where it is readable.
    """

    pid: int
    uid: int
    vmm: str
    name: str | None
    ram_bytes: int | None
    backing: str | None
    sources: tuple[str, ...]
    in_use: tuple[str, ...]
    readable: bool
    why: str | None
    way_out: str | None


def list_vms() -> list[RunningVm]:
    """Lists the running VMs of this host, in order of process id.

    A process that may not be inspected is listed where its name tells that it is a VMM.

    Raises:
        SourceError: /proc is not that of this pid namespace.
    """
    _require_own_proc()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, SourceError, OSError):  # ended meanwhile, or hidden
            vmm = _vmm(process)
            if vmm and not _is_part(process, vmm):
                found += _running_vm(process.pid, vmm)
    return sorted(found)


def hidden_processes() -> str | None:
    """Why there may be VMs that `list_vms` does not see, or None."""
    with contextlib.suppress(OSError), open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _device, place, kind, options = line.split()[:4]
            values = dict(each.partition("=")[::2] for each in options.split(","))
            hidden = values.get("hidepid", "0")
            if place == "/proc" and kind == "proc" and hidden not in ("0", "off"):
                return (
                    f"/proc hides the processes of other users (hidepid={hidden}); run pagecheck "
                    "as root to see all VMs"
                )
    return None


def _require_own_proc() -> None:
    try:
        number = os.readlink("/proc/self")
    except OSError:
        number = "0"
    if number != str(os.getpid()):
        raise SourceError(
            "/proc is not of this pid namespace; mount it (unshare --mount-proc does), or run "
            "pagecheck outside"
        )


def _vmm(process: psutil.Process) -> str:
    """The VMM that a process is; empty where it is none."""
    program = ""
    with contextlib.suppress(OSError):
        program = os.readlink(f"/proc/{process.pid}/exe")
    if vmm := vmm_of(program, process.cmdline()):
        return vmm
    holds = any(leads_to == KVM_VM for _, leads_to in descriptors(f"/proc/{process.pid}"))
    return KVM if holds else ""


def _is_part(process: psutil.Process, vmm: str) -> bool:
    """Whether a process is only a part of a VM: a fork of its VMM, as crosvm's devices are."""
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and parent.cmdline() == process.cmdline():
            return _vmm(parent) == vmm
    return False


def _running_vm(pid: int, vmm: str) -> list[RunningVm]:
    """The VM of a VMM; none where the process has none, or is another one by now."""
    with ProcessMemory(pid) as process:
        said = command_line_of(process)
        if said.vmm != vmm or (vmm == VIRTUALBOX and not said.name):
            return []
        inspect = may_inspect(pid)
        ram = ram_of(process, said) if inspect is None else ram_as_started(said)
        reach = reach_of(process.folder, said.sockets)
        refusal = _never(process, said) or inspect or (may_read(pid) if ram.has_private else None)
        uid = os.stat(process.folder).st_uid
        process.verify()
    vm = RunningVm(
        pid=pid,
        uid=uid,
        vmm=vmm,
        name=said.name or None,
        ram_bytes=ram.size,
        backing=ram.backing,
        sources=(*reach.sources, f"pid:{pid}"),
        in_use=reach.in_use,
        readable=refusal is None,
        why=refusal.why if refusal else None,
        way_out=refusal.way_out if refusal else None,
    )
    return [vm]


def _never(process: ProcessMemory, said: CommandLine) -> Refusal | None:
    """Of a VM whose RAM no other process can read."""
    if why := said.confidential or confidential_descriptor(process.folder):
        return Refusal(
            f"it is a confidential VM ({why}), and the host cannot read its RAM",
            "find zero pages inside the guest",
        )
    if said.vmm == VIRTUALBOX:
        why, _, way_out = NEVER_PRIVATE[VIRTUALBOX].partition("; ")
        return Refusal(why, way_out)
    return None
