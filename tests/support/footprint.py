"""What the kernel counts of a process's memory, which a look may not change.

Of the whole process: sizes and faults. Of its large mappings also the shares (Pss) and huge pages;
not of its libraries, whose share changes with every process that starts beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest

_LARGE_KIB: Final = 4 << 10
_STATUS: Final = ("RssAnon", "RssShmem", "VmSwap", "VmPTE", "VmSize")
_MAPPING: Final = (
    *("Rss", "Pss", "Pss_Dirty", "Anonymous", "AnonHugePages", "Swap", "SwapPss"),
    *("Private_Hugetlb", "KSM"),
)
_COLLAPSED: Final = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed")

T = TypeVar("T")


def footprint(pid: int) -> dict[str, int]:
    """The counts by name, sizes in KiB."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in _STATUS:
            found[name] = int(rest.split()[0])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found["minor faults"], found["major faults"] = int(fields[7]), int(fields[9])
    return {**found, **_large_mappings(pid)}


def _large_mappings(pid: int) -> dict[str, int]:
    found: dict[str, int] = {}
    where, large = "", False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            where = name.split(" ")[0]
        elif name == "Size":
            large = int(rest.split()[0]) >= _LARGE_KIB
        elif large and name in _MAPPING:
            found[f"{where} {name}"] = int(rest.split()[0])
    return found


def unchanged(pid: int, look: Callable[[], T]) -> T:
    """What `look` returns; fails if it changed a count.

    What khugepaged did meanwhile is not the look's: then it is done again.
    """
    for _ in range(5):
        collapsed = _COLLAPSED.read_text() if _COLLAPSED.exists() else ""
        before = footprint(pid)
        result = look()
        after = footprint(pid)
        if before == after:
            return result
        if not _COLLAPSED.exists() or _COLLAPSED.read_text() == collapsed:
            changes = {k: (v, after.get(k)) for k, v in before.items() if after.get(k) != v}
            pytest.fail(f"changed by the look: {changes or after}", pytrace=False)
    pytest.skip("khugepaged collapsed pages in each of 5 looks")
