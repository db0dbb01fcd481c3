"""Which processes have a file open or mapped, as far as /proc shows it: for a message, no proof
where nothing else is said.

Facts: the device in /proc/PID/maps is not st_dev on btrfs. The link in map_files leads to the file
itself, but only root may follow it; the file's path is compared where that is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

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
            is_same = os.makedev(int(major, 16), int(minor, 16)) == st.st_dev or name == path
            if is_same or _leads_to(f"{folder}/map_files/{os.fsdecode(addresses)}", st):
                mapped = "mapped for writing" if perms[1:4:2] == b"ws" else mapped or "mapped"
    found = {mapped, _open(folder, st)}
    order = ("mapped for writing", "open for writing", "mapped", "open")
    return next((how for how in order if how in found), "")


def _leads_to(link: str, st: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(link), st)
    except OSError:  # unmapped since, or it may not be followed
        return False


def _open(folder: str, st: os.stat_result) -> str:
    found = ""
    for name in os.listdir(f"{folder}/fd"):
        with contextlib.suppress(OSError, ValueError):  # closed since
            other = os.stat(f"{folder}/fd/{name}")
            if (other.st_dev, other.st_ino) != (st.st_dev, st.st_ino):
                continue
            with open(f"{folder}/fdinfo/{name}", encoding="ascii") as file:
                flags = int(file.read().partition("flags:")[2].split()[0], 8)
            found = "open for writing" if flags & os.O_ACCMODE else found or "open"
    return found


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).strip()
    except OSError:
        return "ended"
