"""Which processes have a file open or mapped, as far as /proc shows it: for a message, no proof
where nothing else is said.

Facts: the device in /proc/PID/maps is not st_dev on btrfs. The link in map_files leads to the file
itself, but only root may follow it; the file's path is compared where that is refused.
Danger: a file that another process has open on a file system that does not answer is asked for,
while the VM is stopped. Decision: only one with the same inode number is, and not where its mount
is of a kind that may never answer, unless the file itself is on that mount.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

from pagecheck.shm import mounts

SHOWN: Final = 3
_MAP: Final = re.compile(rb"^(\S+) (\S{4}) \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) +(.*)$", re.MULTILINE)


def users_of(fd: int) -> str:
    """Those that have the file behind a descriptor of ours, on one line; empty where none can be
    seen."""
    found = []
    for pid in sorted(_pids()):
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended, or may not be inspected
            if how := _how(f"/proc/{pid}", fd):
                found.append(f"process {pid} ({_name(pid)}) has it {how}")
        if len(found) > SHOWN:
            return ", ".join([*found[:SHOWN], "and others"])
    return ", ".join(found)


def mappers_of(fd: int, besides: int) -> str:
    """A process, other than this and another one, that maps the file shared and writable, or has it
    open for writing; empty where none can be seen."""
    for pid in sorted(_pids()):
        if pid in (os.getpid(), besides):
            continue
        with contextlib.suppress(OSError):
            how = _how(f"/proc/{pid}", fd)
            if how in ("mapped for writing", "open for writing"):
                return f"process {pid} ({_name(pid)}) has it {how}"
    return ""


def maps_for_writing(pid: int, fd: int) -> bool:
    """Whether a process maps the file shared and writable, as only who opened it for writing can.
    Proof, and so for root alone: no name is believed.

    Raises:
        OSError: the process may not be inspected, or has ended.
    """
    st = os.fstat(fd)
    with open(f"/proc/{pid}/maps", "rb") as file:
        maps = file.read()
    return any(
        perms[1:4:2] == b"ws"
        and int(inode) == st.st_ino
        and _leads_to(f"/proc/{pid}/map_files/{os.fsdecode(addresses)}", st)
        for addresses, perms, _major, _minor, inode, _name in _MAP.findall(maps)
    )


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _how(folder: str, fd: int) -> str:
    """How a process has the file; empty: it does not have it."""
    st, path = os.fstat(fd), os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    mapped = ""
    with open(f"{folder}/maps", "rb") as file:
        maps = file.read()
    if b" %d " % st.st_ino in maps:  # in most there is nothing to take apart
        for addresses, perms, major, minor, inode, name in _MAP.findall(maps):
            if int(inode) != st.st_ino:
                continue
            device = int(major, 16), int(minor, 16)
            is_same = os.makedev(*device) == st.st_dev or name == path
            if not is_same and not _is_answering(mounts.read(f"{folder}/mountinfo"), device):
                continue
            if is_same or _leads_to(f"{folder}/map_files/{os.fsdecode(addresses)}", st):
                mapped = "mapped for writing" if perms[1:4:2] == b"ws" else mapped or "mapped"
    found = {mapped, _open(folder, st, _fdinfo("/proc/self", fd))}
    order = ("mapped for writing", "open for writing", "mapped", "open")
    return next((how for how in order if how in found), "")


def _leads_to(link: str, st: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(link), st)
    except OSError:  # unmapped since, or it may not be followed
        return False


def _open(folder: str, st: os.stat_result, ours: dict[str, str]) -> str:
    """How a process has the file open.

    Args:
        st, ours: what stat(2) and the kernel's fdinfo say of our descriptor.
    """
    found = ""
    for name in os.listdir(f"{folder}/fd"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # closed since
            theirs = _fdinfo(folder, name)
            if theirs.get("ino") != ours.get("ino") or _may_stall(folder, theirs, ours):
                continue
            if _leads_to(f"{folder}/fd/{name}", st):
                is_written = int(theirs["flags"], 8) & os.O_ACCMODE
                found = "open for writing" if is_written else found or "open"
    return found


def _fdinfo(folder: str, fd: int | str) -> dict[str, str]:
    """What the kernel says of a descriptor, without a request to its file system."""
    with open(f"{folder}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
        lines = (line.partition(":") for line in file)
        return {name: value.strip() for name, _colon, value in lines}


def _may_stall(folder: str, theirs: dict[str, str], ours: dict[str, str]) -> bool:
    """Whether a file is on a mount that may never answer, and that our file is not on."""
    number = theirs["mnt_id"]
    if number == ours["mnt_id"]:
        return False
    for each in mounts.read(f"{folder}/mountinfo"):
        if each.number == int(number):
            return each.kind not in mounts.NEVER_STALL
    return False  # the kernel's own, as of a memfd


def _is_answering(known: list[mounts.Mount], device: tuple[int, int]) -> bool:
    """Whether a device is of no mount that may never answer."""
    return all(each.kind in mounts.NEVER_STALL for each in known if each.device == device)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).strip()
    except OSError:
        return "ended"
