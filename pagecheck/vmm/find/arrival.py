"""Whether a VM's RAM has arrived: a migration or a page-fault handler fills it page by page.

Facts: RAM that has not arrived is a hole, and reads as zero. While QEMU waits for a migration its
status is inmigrate; once postcopy has begun it is running, with most of its RAM at the source. Then
query-migrate reports a status but no `ram`, which a source reports (QEMU 7.2 to 10.0). A source
that is in setup, was cancelled or failed reports no `ram` either; a destination in these is in
inmigrate, or has ended. Memory that is registered with userfaultfd for absent pages has "um" or
"ui" among the flags in /proc/PID/smaps. Decision: RAM that is arriving is not read; where a process
id does not show it, the report says so.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Final

from pagecheck.shortage import is_limit, refused
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.memory import DetailedMapping, ProcessMemory

# Source: fill_destination_migration_info() and fill_source_migration_info() in QEMU's
# migration/migration.c.
_ARRIVED: Final = {"none", "completed", "setup", "wait-unplug", "cancelled", "failed"}
_STATUSES: Final = {
    "inmigrate": "waits for an incoming migration",
    "restore-vm": "loads a snapshot",
    "preconfig": "has no RAM yet (preconfig)",
}

# To read smaps the kernel walks all page tables, 10 ms for 2 GiB of small pages, with the VMM's
# address space locked: in larger ones it is read only where the process holds a userfaultfd.
_WALK_PAGES: Final = (16 << 30) // 4096
_MISSING_FLAGS: Final = {"um", "ui"}

_QEMU: Final = re.compile(r"qemu-(system-|kvm)")


def not_arrived(monitor: QemuMonitor) -> str | None:
    """Why RAM of the VM behind a monitor may be missing at this moment, or None: it has arrived.

    Raises:
        SourceError: QEMU does not answer or ended.
        PeerError: its answer is invalid.
    """
    status = _asked(monitor, "query-status").member("status").text()
    if status in _STATUSES:
        return f"{monitor.name}: {_STATUSES[status]}: memory that has not arrived is not zero"
    migration = _asked(monitor, "query-migrate")
    state = migration.optional("status")
    reported = "none" if state is None else state.text()
    if reported in _ARRIVED or migration.optional("ram") is not None:
        return None
    return (
        f"{monitor.name}: is the destination of a migration that is {reported}: memory that has "
        "not arrived is not zero; scan it when the migration is completed"
    )


def _asked(monitor: QemuMonitor, command: str) -> Answer:
    return Answer(monitor.name, command, monitor.execute(command))


def missing_files(process: ProcessMemory, at_most_pages: int = _WALK_PAGES) -> set[tuple[int, int]]:
    """Files whose absent pages the process fetches through a userfaultfd, by device and inode as in
    its maps.

    Args:
        at_most_pages: with more shared memory than that it is looked up only if the process itself
            holds the userfaultfd, not another one on its behalf.

    Raises:
        SourceError: its memory may not be inspected, or it ended.
    """
    if _shared_pages(process) > at_most_pages and not holds_userfaultfd(process):
        return set()
    return files_that_arrive(process.detailed_mappings())


def files_that_arrive(details: Iterable[DetailedMapping]) -> set[tuple[int, int]]:
    """The files among mappings that a userfaultfd is registered on for absent pages."""
    return {
        (each.mapping.dev, each.mapping.inode)
        for each in details
        if each.mapping.inode and not _MISSING_FLAGS.isdisjoint(each.flags)
    }


def _shared_pages(process: ProcessMemory) -> int:
    with contextlib.suppress(OSError), open(f"{process.folder}/statm", encoding="ascii") as file:
        return int(file.read().split()[2])
    return 0


def holds_userfaultfd(process: ProcessMemory) -> bool:
    """Whether the process itself has a userfaultfd open, as far as that can be seen.

    Raises:
        ResourceError: this process lacks a descriptor to see it.
    """
    try:
        names = os.listdir(f"{process.folder}/fd")
    except OSError as error:
        if is_limit(error):
            raise refused(
                f"process {process.pid}: its descriptors cannot be listed", error
            ) from error
        return False
    for name in names:
        with contextlib.suppress(OSError):  # closed since
            if os.readlink(f"{process.folder}/fd/{name}") == "anon_inode:[userfaultfd]":
                return True
    return False


def may_be_destination(process: ProcessMemory) -> bool:
    """Whether a migration may still be filling the process's RAM, as far as its command line shows:
    QEMU, Cloud Hypervisor and crosvm name there that they start as a destination."""
    words = process.command_line()
    name = os.path.basename(process.program() or words[0])
    if _QEMU.search(name):
        return bool({"-incoming", "--incoming"}.intersection(words))
    if name.startswith("cloud-hypervisor"):
        return not any(word.startswith(("--kernel", "--firmware")) for word in words)
    if name.startswith("crosvm"):
        return any(word.startswith("--restore") for word in words)
    return not name.startswith("firecracker")  # its snapshots are files, or userfaultfd's
