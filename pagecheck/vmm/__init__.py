"""Running VMs beside pagecheck: their RAM found by process id or QMP, paused and resumed."""

from pagecheck.vmm.pause import QemuMonitor, VmmMonitor
from pagecheck.vmm.ram import GuestRam, PauseResult
from pagecheck.vmm.vm import Vm, open_vm

__all__ = ["GuestRam", "PauseResult", "QemuMonitor", "Vm", "VmmMonitor", "open_vm"]
