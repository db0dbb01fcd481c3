"""What the kernel counts of a process's memory, which a look may not change.

Of the whole process: sizes and faults. Of its large writable mappings also the shares (Pss) and
huge pages; not of its code, whose share changes with every process that starts beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest

_LARGE_KIB: Final = 4 << 10
_RAM_KIB: Final = 64 << 10
_STATUS: Final = ("RssAnon", "RssShmem", "VmSwap", "VmPTE", "VmSize")
_MAPPING: Final = (
    *("Rss", "Pss", "Pss_Dirty", "Anonymous", "AnonHugePages", "Swap", "SwapPss"),
    *("Private_Hugetlb", "KSM"),
)
_COLLAPSED: Final = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed")

T = TypeVar("T")


def footprint(pid: int) -> dict[str, int]:
    """The counts by name, sizes in KiB."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in _STATUS:
            found[name] = int(rest.split()[0])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found["minor faults"], found["major faults"] = int(fields[7]), int(fields[9])
    return {**found, **_large_mappings(pid, _LARGE_KIB)}


def footprint_of_ram(pid: int) -> dict[str, int]:
    """The counts of the mappings that are as large as a guest's RAM alone: of a process that
    answers on a monitor meanwhile."""
    return _large_mappings(pid, _RAM_KIB)


def _large_mappings(pid: int, least_kib: int) -> dict[str, int]:
    found: dict[str, int] = {}
    where, perms, large = "", "", False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            where, perms = line.split(" ")[:2]
        elif name == "Size":
            large = int(rest.split()[0]) >= least_kib and perms[1] == "w"
        elif large and name in _MAPPING:
            found[f"{where} {name}"] = int(rest.split()[0])
    return found


def unchanged(
    pid: int, look: Callable[[], T], counts: Callable[[int], dict[str, int]] = footprint
) -> T:
    """What `look` returns; fails if it changed a count.

    What khugepaged did meanwhile is not the look's: then it is done again.
    """
    for _ in range(5):
        collapsed = _COLLAPSED.read_text() if _COLLAPSED.exists() else ""
        before = counts(pid)
        result = look()
        after = counts(pid)
        if before == after:
            return result
        if not _COLLAPSED.exists() or _COLLAPSED.read_text() == collapsed:
            changes = {k: (v, after.get(k)) for k, v in before.items() if after.get(k) != v}
            pytest.fail(f"changed by the look: {changes or after}", pytrace=False)
    pytest.skip("khugepaged collapsed pages in each of 5 looks")
