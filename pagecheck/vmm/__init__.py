"""Running VMs beside pagecheck: their RAM found by process id or QMP, paused and resumed."""

from pagecheck.vmm.pause import QemuMonitor
from pagecheck.vmm.ram import GuestRam, PauseResult
from pagecheck.vmm.vm import Vm, is_vm_source, open_vm

__all__ = ["GuestRam", "PauseResult", "QemuMonitor", "Vm", "is_vm_source", "open_vm"]
