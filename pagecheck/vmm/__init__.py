"""Running VMs beside pagecheck: their RAM found by process id or QMP, paused and resumed.

The names are loaded when they are first used: who wants one file of this folder loads no other.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any

    from pagecheck.vmm.hold.pause import QemuMonitor, VmmMonitor
    from pagecheck.vmm.ram import GuestRam, PauseResult
    from pagecheck.vmm.vm import Vm, open_vm

__all__ = ["GuestRam", "PauseResult", "QemuMonitor", "Vm", "VmmMonitor", "open_vm"]

_HOMES = {
    "GuestRam": "pagecheck.vmm.ram",
    "PauseResult": "pagecheck.vmm.ram",
    "QemuMonitor": "pagecheck.vmm.hold.pause",
    "Vm": "pagecheck.vmm.vm",
    "VmmMonitor": "pagecheck.vmm.hold.pause",
    "open_vm": "pagecheck.vmm.vm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pagecheck.vmm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
