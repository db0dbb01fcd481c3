"""What this host is, for a report: what matters to pagecheck, without the names of people, hosts
and files, but for the folders that the user gave."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING, Any, Final

from pagecheck._version import __version__
from pagecheck.coordinator.settings import usable_cpus
from pagecheck.hw.kernels import list_kernels
from pagecheck.hw.queues import cpu_facts, list_devices
from pagecheck.shm import mounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagecheck.selftest.places import Place

_FILES: Final = {
    "transparent_hugepage": "/sys/kernel/mm/transparent_hugepage/enabled",
    "shmem_enabled": "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "huge_pages": "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    "huge_pages_free": "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
    "ksm": "/sys/kernel/mm/ksm/run",
    "yama": "/proc/sys/kernel/yama/ptrace_scope",
    "overcommit": "/proc/sys/vm/overcommit_memory",
}
_PACKAGES: Final = ("numpy", "posix_ipc", "psutil", "xxhash", "zstandard")
# Of a mount's options, those in which nobody writes a path, a name or a label.
_OPTIONS: Final = ("size", "huge", "noatime", "relatime", "ro", "dax", "compress", "datacow")


def facts(places: Iterable[Place]) -> dict[str, Any]:
    """As docs/json.md describes them."""
    devices = list_devices()
    return {
        "pagecheck": __version__,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "packages": {name: _version(name) for name in _PACKAGES},
        "kernel": platform.release(),
        "machine": platform.machine(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "cpus": {"usable": usable_cpus(), **_cpu()},
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "root": os.geteuid() == 0,
        "settings": {name: _line(path) for name, path in _FILES.items()},
        "kernels": {each.name: each.unusable for each in list_kernels()},
        "devices": [[each.name, each.state, len(each.queues)] for each in devices],
        "submission": cpu_facts(),
        "file_systems": {place.name: _file_system(place) for place in places if place.folder},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read(200).strip()
    except OSError:
        return None


def _cpu() -> dict[str, str | None]:
    """Model and flags of the first CPU, as /proc/cpuinfo has them."""
    found: dict[str, str | None] = {"model": None, "flags": None, "microcode": None}
    names = {"model name": "model", "flags": "flags", "Features": "flags", "microcode": "microcode"}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                if not line.strip():
                    break
                if name.strip() in names:
                    found[names[name.strip()]] = value.strip()
    except OSError:
        pass
    return found


def _file_system(place: Place) -> dict[str, Any]:
    """Kind, size and harmless options of the file system of a place; of one that fails since, why:
    the report is then what is wanted."""
    try:
        there = os.statvfs(place.folder)
        mount = mounts.of_device(os.stat(place.folder).st_dev)
    except OSError as error:
        return {"error": error.strerror}
    options = {} if mount is None else {name: mount.option(name) for name in _OPTIONS}
    return {
        "kind": None if mount is None else mount.kind,
        "bytes": there.f_blocks * there.f_frsize,
        "free_bytes": there.f_bavail * there.f_frsize,
        "options": {name: value for name, value in options.items() if value is not None},
    }
