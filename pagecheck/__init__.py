"""pagecheck finds the zero pages of a virtual machine's RAM, beside any VMM.

Importing it has no side effects and loads nothing; names are resolved when first used.
"""

from __future__ import annotations

from pagecheck._version import __version__

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Any

    from pagecheck.coordinator import Block, Coordinator
    from pagecheck.errors import PagecheckError
    from pagecheck.model import Counts, RamBlock
    from pagecheck.oneshot import scan
    from pagecheck.report.report import Answer, BlockReport, Report
    from pagecheck.report.statistics import ChannelReport, Statistics
    from pagecheck.service.client import Client
    from pagecheck.snapshot.clone import CloneReport, Clones, clone
    from pagecheck.snapshot.info import info
    from pagecheck.snapshot.punch import punch
    from pagecheck.snapshot.punch_report import PunchedBlock, PunchReport
    from pagecheck.snapshot.restore import RestoreReport, restore
    from pagecheck.snapshot.save import save
    from pagecheck.snapshot.save_report import SaveReport
    from pagecheck.snapshot.values import Snapshot
    from pagecheck.snapshot.verify import VerifyReport, verify
    from pagecheck.survey.api import survey
    from pagecheck.vmm.find.explain import ExplainedMapping, explain
    from pagecheck.vmm.find.listing import RunningVm, list_vms

__all__ = [
    "Answer",
    "Block",
    "BlockReport",
    "ChannelReport",
    "Client",
    "CloneReport",
    "Clones",
    "Coordinator",
    "Counts",
    "ExplainedMapping",
    "PagecheckError",
    "PunchReport",
    "PunchedBlock",
    "RamBlock",
    "Report",
    "RestoreReport",
    "RunningVm",
    "SaveReport",
    "Snapshot",
    "Statistics",
    "VerifyReport",
    "__version__",
    "clone",
    "explain",
    "info",
    "list_vms",
    "punch",
    "restore",
    "save",
    "scan",
    "survey",
    "verify",
]

_HOMES = {
    "Answer": "pagecheck.report.report",
    "Block": "pagecheck.coordinator.block",
    "BlockReport": "pagecheck.report.report",
    "ChannelReport": "pagecheck.report.statistics",
    "Client": "pagecheck.service.client",
    "CloneReport": "pagecheck.snapshot.clone",
    "Clones": "pagecheck.snapshot.clone",
    "Coordinator": "pagecheck.coordinator.coordinator",
    "Counts": "pagecheck.model",
    "ExplainedMapping": "pagecheck.vmm.find.explain",
    "PagecheckError": "pagecheck.errors",
    "PunchReport": "pagecheck.snapshot.punch_report",
    "PunchedBlock": "pagecheck.snapshot.punch_report",
    "RamBlock": "pagecheck.model",
    "Report": "pagecheck.report.report",
    "RestoreReport": "pagecheck.snapshot.restore",
    "RunningVm": "pagecheck.vmm.find.listing",
    "SaveReport": "pagecheck.snapshot.save_report",
    "Snapshot": "pagecheck.snapshot.values",
    "Statistics": "pagecheck.report.statistics",
    "VerifyReport": "pagecheck.snapshot.verify",
    "clone": "pagecheck.snapshot.clone",
    "explain": "pagecheck.vmm.find.explain",
    "info": "pagecheck.snapshot.info",
    "list_vms": "pagecheck.vmm.find.listing",
    "punch": "pagecheck.snapshot.punch",
    "restore": "pagecheck.snapshot.restore",
    "save": "pagecheck.snapshot.save",
    "scan": "pagecheck.oneshot",
    "survey": "pagecheck.survey.api",
    "verify": "pagecheck.snapshot.verify",
}


def __getattr__(name: str) -> Any:
    """Loads a public name; workers import this package and must not pay for the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pagecheck' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
