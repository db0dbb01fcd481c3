"""Hints for a source that cannot be scanned: loaded only once there is an error to explain.

Names and sizes are inspected, within bounds, and the first bytes of files that look like RAM.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.formats import identify
from pagecheck.model import VM_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCFS: Final = 0x9FA0  # Source: linux/magic.h
SYSFS: Final = 0x62656572
ENTRIES_MAX: Final = 4096
INSPECTED_MAX: Final = 16
RAM_BYTES_MIN: Final = 1 << 20

DASH: Final = (
    "-: a pipe cannot be scanned: pages are read out of order, and the size is needed first; "
    "write it to a file, or, where standard input is a file, give fd:0 (a file of this name is ./-)"
)
PIPE: Final = (
    "is a pipe, which cannot be scanned: pages are read out of order, and the size is needed "
    "first; write it to a file"
)
_KINDS: Final = {
    stat.S_IFIFO: PIPE,
    stat.S_IFSOCK: "is a socket; a VMM's is scanned as qmp:SOCKET (QEMU), fc:SOCKET (Firecracker), "
    "ch:SOCKET (Cloud Hypervisor) or crosvm:SOCKET, a service is named by --via",
    stat.S_IFCHR: "is a character device; give a file of raw guest RAM, or pid:PID",
    stat.S_IFBLK: "is a block device; copy it to a file, if raw guest RAM was put there",
}
# Common names of files with guest RAM: Cloud Hypervisor, Firecracker, VMware, others.
_LIKELY: Final = re.compile(
    r"memory-ranges|.*\bmem(ory)?([._-].*)?|.*\.(ram|vmem|raw|snap)|.*ram.*"
)
_PREFIX: Final = re.compile(r"([A-Za-z][A-Za-z0-9+-]{1,9}):")


def of_kind(path: str, mode: int) -> str:
    """The hint for something that is not a regular file."""
    if stat.S_ISDIR(mode):
        return f"is a directory; {_files_in(path)}"
    return _KINDS.get(stat.S_IFMT(mode), "is not a regular file")


def of_empty(magic: int) -> str:
    """The hint for a file of 0 bytes.

    Args:
        magic: of its file system.
    """
    if magic in (PROCFS, SYSFS):
        return "is a kernel file without a size; a process's RAM is scanned as pid:PID"
    return "is empty: it holds no RAM, or none yet; give the file that the RAM was written to"


def of_error(path: str, error: OSError) -> str:
    """The hint for a path that cannot be opened; empty where the error is clear by itself."""
    with contextlib.suppress(OSError, ValueError):
        if error.errno == errno.ENOENT:
            return _missing(path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return _forbidden(path)
    return ""


class _Candidate(NamedTuple):
    likely: bool
    size: int
    name: str


def _files_in(folder: str) -> str:
    """Which files of a folder look like RAM."""
    found = []
    with contextlib.suppress(OSError):
        found = sorted(_candidates(folder), reverse=True)
    inspected = found[:INSPECTED_MAX]
    raw = [each for each in inspected if _looks_raw(os.path.join(folder, each.name))]
    if not raw:
        return "give a file of raw guest RAM; none in it looks like one"
    shown = [f"{os.path.join(folder, each.name)} ({each.size >> 20} MiB)" for each in raw[:3]]
    more = f" and {len(raw) - 3} more" if len(raw) > 3 else ""
    return f"of its files these look like raw RAM: {', '.join(shown)}{more}"


def _candidates(folder: str) -> Iterator[_Candidate]:
    with os.scandir(folder) as entries:
        for _, entry in zip(range(ENTRIES_MAX), entries, strict=False):
            with contextlib.suppress(OSError):
                st = entry.stat(follow_symlinks=False)
                whole = st.st_size >= RAM_BYTES_MIN and st.st_size % 4096 == 0
                if stat.S_ISREG(st.st_mode) and whole:
                    likely = _LIKELY.fullmatch(entry.name.lower()) is not None
                    yield _Candidate(likely, st.st_size, entry.name)


def _looks_raw(path: str) -> bool:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and identify(fd) is None
    finally:
        os.close(fd)


def _missing(path: str) -> str:
    """The hint for a path that does not exist: the nearest name."""
    if not path:
        return "the source is empty"
    if path.isascii() and path.isdecimal() and os.path.exists(f"/proc/{path}"):
        return f"the guest RAM of process {path} is scanned as pid:{path}"
    known = _PREFIX.match(path)
    if known is not None and not os.path.exists(known[0]):
        return f"{known[0]} is not a kind of source; use fd:N, shm:/name, pid:PID, " + ", ".join(
            f"{kind}:SOCKET" for kind in VM_KINDS[1:]
        )
    there, wanted = _deepest(path)
    place = os.path.join(there, wanted)
    if os.path.islink(place):
        return f"{place} is a symbolic link to {os.readlink(place)}, which does not exist"
    near = nearest(there, wanted)
    if near is None:
        return "" if place == path else f"there is no {place}"
    return f"the nearest name is {os.path.join(there, near) if there != '.' else near}"


def _deepest(path: str) -> tuple[str, str]:
    """The deepest existing folder of a path, and the name in it that does not exist."""
    there, wanted = os.path.split(path.rstrip("/"))
    while there and not os.path.isdir(there):
        there, wanted = os.path.split(there)
    return there or ("/" if path.startswith("/") else "."), wanted


def nearest(folder: str, wanted: str) -> str | None:
    """The name in a folder that is closest to a missing name, if any is close."""
    from difflib import get_close_matches

    with os.scandir(folder) as entries:
        names = [entry.name for _, entry in zip(range(ENTRIES_MAX), entries, strict=False)]
    close = get_close_matches(wanted.lower(), {name.lower() for name in names}, 1, 0.7)
    return next((name for name in sorted(names) if close and name.lower() == close[0]), None)


def _forbidden(path: str) -> str:
    """The owner of a path that may not be opened, or of the folder that may not be searched."""
    if os.geteuid() == 0:
        return (
            "not permitted even to root: the file system (FUSE, NFS), mandatory access control or "
            "a user namespace forbids it"
        )
    folders = []
    at = os.path.abspath(path)
    while at != "/":
        at = os.path.dirname(at)
        folders.append(at)
    for folder in reversed(folders):
        if not os.access(folder, os.X_OK, effective_ids=True):
            return f"the folder {folder} {_owned(os.stat(folder))}"
    return f"it {_owned(os.stat(path))}"


def _owned(st: os.stat_result) -> str:
    import grp
    import pwd

    user, group = str(st.st_uid), str(st.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(st.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(st.st_gid).gr_name
    mode = stat.S_IMODE(st.st_mode)
    return f"is {user}'s (group {group}, mode {mode:04o}); run pagecheck as {user} or root"
