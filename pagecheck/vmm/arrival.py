"""Whether a VM's RAM is all there: a migration or a page-fault handler brings it page by page.

Facts: RAM that is still to come is a hole, and reads as zero. While QEMU waits for a migration its
status is inmigrate; once postcopy has begun it is running, with most of its RAM at the source. Then
query-migrate tells a status and no `ram`, which a source tells (QEMU 7.2 to 10.0). A source that is
in setup, was cancelled or failed tells no `ram` either; a destination in these is in inmigrate, or
has ended. Memory that is registered with userfaultfd for absent pages has "um" or "ui" among the
flags in /proc/PID/smaps. Decision: what is arriving is not looked at; where a process id does not
tell, the report says so.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final

from pagecheck.vmm.answers import Answer
from pagecheck.vmm.memory import ProcessMemory
from pagecheck.vmm.pause import QemuMonitor

# Source: fill_destination_migration_info() and fill_source_migration_info() in QEMU's
# migration/migration.c.
_ALL_THERE: Final = {"none", "completed", "setup", "wait-unplug", "cancelled", "failed"}
_STATUSES: Final = {
    "inmigrate": "waits for an incoming migration",
    "restore-vm": "loads a snapshot",
    "preconfig": "has no RAM yet (preconfig)",
}

# To read smaps the kernel walks all page tables, 10 ms for 2 GiB of small pages, with the VMM's
# address space locked: in larger ones it is read only where the process holds a userfaultfd.
_WALK_PAGES: Final = (16 << 30) // 4096
_AWAITED: Final = {"um", "ui"}

_QEMU: Final = re.compile(r"qemu-(system-|kvm)")


def not_arrived(monitor: QemuMonitor) -> str | None:
    """Why RAM of the VM behind a monitor may be missing at this moment, or None: all is there.

    Raises:
        SourceError: QEMU does not answer or ended.
        PeerError: its answer makes no sense.
    """
    status = _asked(monitor, "query-status").member("status").text()
    if status in _STATUSES:
        return f"{monitor.name}: {_STATUSES[status]}: memory that has not arrived is not zero"
    migration = _asked(monitor, "query-migrate")
    state = migration.optional("status")
    told = "none" if state is None else state.text()
    if told in _ALL_THERE or migration.optional("ram") is not None:
        return None
    return (
        f"{monitor.name}: is the destination of a migration that is {told}: memory that has not "
        "arrived is not zero; scan it when the migration is completed"
    )


def _asked(monitor: QemuMonitor, command: str) -> Answer:
    return Answer(monitor.name, command, monitor.execute(command))


def awaited(process: ProcessMemory, at_most_pages: int = _WALK_PAGES) -> set[tuple[int, int]]:
    """Files of which the process awaits pages, by device and inode as in its maps: those that are
    absent are asked for through a userfaultfd.

    Args:
        at_most_pages: with more shared memory than that it is asked only if it holds a userfaultfd
            itself, and not somebody else for it.

    Raises:
        SourceError: its memory may not be looked at, or it ended.
    """
    if _shared_pages(process) > at_most_pages and not _holds_userfaultfd(process):
        return set()
    return {
        (each.dev, each.inode)
        for each, flags in process.mappings_with_flags()
        if each.inode and not _AWAITED.isdisjoint(flags)
    }


def _shared_pages(process: ProcessMemory) -> int:
    with contextlib.suppress(OSError), open(f"{process.folder}/statm", encoding="ascii") as file:
        return int(file.read().split()[2])
    return 0


def _holds_userfaultfd(process: ProcessMemory) -> bool:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{process.folder}/fd"):
            with contextlib.suppress(OSError):  # closed since
                if os.readlink(f"{process.folder}/fd/{name}") == "anon_inode:[userfaultfd]":
                    return True
    return False


def may_be_destination(process: ProcessMemory) -> bool:
    """Whether a migration may still be bringing the process's RAM, for all that its command line
    tells: QEMU, Cloud Hypervisor and crosvm say there that they begin as a destination."""
    words = process.command_line()
    name = os.path.basename(process.program() or words[0])
    if _QEMU.search(name):
        return bool({"-incoming", "--incoming"}.intersection(words))
    if name.startswith("cloud-hypervisor"):
        return not any(word.startswith(("--kernel", "--firmware")) for word in words)
    if name.startswith("crosvm"):
        return any(word.startswith("--restore") for word in words)
    return not name.startswith("firecracker")  # its snapshots are files, or userfaultfd's
