"""Whether a file of shared memory may hold folios of more than one page.

Facts: tmpfs allocates a huge folio, say 2 MiB, for one page that is written, and SEEK_DATA then
calls all of it data. Whether it may is set by the mount's huge= option, and for files on no visible
mount (memfd, System V, /dev/zero) by sysfs. Earlier settings and MADV_COLLAPSE leave no trace.
Decision: a file may hold huge folios if the present settings allow it, or cannot be read.

Source: shmem_huge_global_enabled() and shmem_allowable_huge_orders() in mm/shmem.c, Linux 6.14;
Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import os
from typing import Final

from pagecheck.shm import mounts

MM: Final = "/sys/kernel/mm"


def why_possible(fd: int, mm: str = MM, mountinfo: str = mounts.MOUNTINFO) -> str | None:
    """Why the tmpfs file may hold huge folios; None where it cannot."""
    folder = f"{mm}/transparent_hugepage"
    if not os.path.isdir(mm):
        return f"{mm} cannot be read to rule out huge pages"
    if not os.path.isdir(folder):
        return None  # the kernel was built without them
    everywhere = _chosen(f"{folder}/shmem_enabled")
    if everywhere is None:
        return f"{folder}/shmem_enabled cannot be read to rule out huge pages"
    if everywhere == "force":
        return f"{folder}/shmem_enabled is force, which makes all shared memory use huge pages"
    device = os.fstat(fd).st_dev
    mount = mounts.of_device(device, mounts.read(mountinfo))
    if mount is not None:
        huge = mount.option("huge")
        if huge in (None, "never"):
            return None
        return f"it is on a tmpfs mounted with huge={huge} ({mount.point})"
    if device != _device_of_memfds():
        return "its tmpfs is not mounted here, so its option huge= is not known"
    return _why_internal(folder, everywhere)


def _why_internal(folder: str, everywhere: str) -> str | None:
    """The same for shared memory on no visible mount."""
    if everywhere not in ("never", "deny"):
        return f"{folder}/shmem_enabled is {everywhere}"
    for size in sorted(os.listdir(folder)):
        chosen = _chosen(f"{folder}/{size}/shmem_enabled") if size.startswith("hugepages") else None
        if chosen not in (None, "never", "inherit"):
            return f"{folder}/{size}/shmem_enabled is {chosen}"
    return None


def _chosen(path: str) -> str | None:
    """The selected word, in brackets, of a sysfs file such as `always [never]`."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().partition("[")[2].partition("]")[0] or None
    except OSError:
        return None


def _device_of_memfds() -> int:
    """st_dev of the kernel's own mount, on which memfds are."""
    fd = os.memfd_create("pagecheck-device", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
