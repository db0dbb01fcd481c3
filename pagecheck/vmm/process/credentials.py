"""What /proc says of a process that the ptrace access rule asks for: ids, capabilities, user
namespace, security label, and whether it is dumpable."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from typing import Final, NamedTuple

PROC: Final = "/proc"
REAL, EFFECTIVE, SAVED, FS = range(4)  # of the four ids that /proc/PID/status shows

NOT_KNOWN: Final = -1

INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD  # Source: USER_NS_INIT_INO in linux/nsfs.h
NS_GET_PARENT: Final = 0xB702
NS_GET_OWNER_UID: Final = 0xB704
_NAMESPACES_MAX: Final = 34  # Source: create_user_ns(): at most 33 levels


class Credentials(NamedTuple):
    """Who a process is.

    Attributes:
        uids: real, effective, saved and of file systems, as this process sees them.
        gids: the same of groups.
        groups: the supplementary ones; the ptrace rule does not ask for them.
        effective: capabilities; bit i is capability i.
        permitted: the same.
        user_namespace: device and inode of its user namespace; None where that cannot be seen.
        label: its security label; empty where no security module has labels.
        is_own: whether they are of this process.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    effective: int
    permitted: int
    user_namespace: tuple[int, int] | None
    label: str
    is_own: bool = False


class UserNamespace(NamedTuple):
    """One of those that a process is in.

    Attributes:
        place: its device and inode.
        owner: uid of who made it; -1 where that is not known.
    """

    place: tuple[int, int]
    owner: int


class Target(NamedTuple):
    """A process whose memory is asked for.

    Attributes:
        credentials: its own.
        namespaces: its user namespace, that one's parent, and so on, as far as we may see.
        elsewhere: whether its ids are mapped in another way than ours, so that it is certainly in
            another user namespace.
        dumpable: None where that cannot be known.
        owner: uid that its files in /proc belong to.
    """

    credentials: Credentials
    namespaces: tuple[UserNamespace, ...]
    elsewhere: bool
    dumpable: bool | None
    owner: int


class Host(NamedTuple):
    """What the rule asks of the host and of this process.

    Attributes:
        yama: ptrace_scope; 0 where there is no Yama; NOT_KNOWN where that cannot be seen.
        unmapped: the uid and the gid that are shown for ids without a number in our user namespace;
            None: every id has a number.
        label: the security label of this process.
    """

    yama: int
    unmapped: tuple[int, int] | None
    label: str


def credentials_of(pid: int | str, proc: str = PROC) -> Credentials:
    """Of a process, by its folder in /proc; its name there may be "self".

    Raises:
        OSError: it has ended, or /proc hides it.
    """
    folder = f"{proc}/{pid}"
    with open(f"{folder}/status", "rb") as file:
        text = os.fsdecode(file.read())
    # The first line has the process's name, in which the kernel escapes a line break.
    status = dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))
    try:
        return Credentials(
            _four(status["Uid"]),
            _four(status["Gid"]),
            tuple(map(int, status["Groups"].split())),
            int(status["CapEff"], 16),
            int(status["CapPrm"], 16),
            _place(f"{folder}/ns/user"),
            label_of(folder),
        )
    except (KeyError, ValueError) as error:
        raise OSError(errno.EIO, f"{folder}/status is not as Linux writes it") from error


def has_ended(pid: int, proc: str = PROC) -> bool:
    """Whether a process that is still in /proc has ended: a zombie."""
    return re.search(r"^State:\t[ZX]", _text(f"{proc}/{pid}/status"), re.MULTILINE) is not None


def target_of(pid: int, proc: str = PROC) -> Target:
    """What /proc says of it.

    Raises:
        OSError: it has ended, or /proc hides it.
    """
    folder = f"{proc}/{pid}"
    found = credentials_of(pid, proc)
    namespaces = _user_namespaces(f"{folder}/ns/user")
    elsewhere = _text(f"{folder}/uid_map") != _text(f"{proc}/self/uid_map")
    here = not elsewhere and (
        not namespaces or namespaces[0].place == _place(f"{proc}/self/ns/user")
    )
    # One that is not dumpable belongs to the root of its user namespace. Source: task_dump_owner()
    # in fs/proc/base.c.
    there = os.stat(f"{folder}/maps")
    ids = found.uids[EFFECTIVE], found.gids[EFFECTIVE]
    dumpable: bool | None = (there.st_uid, there.st_gid) == ids
    if dumpable and (ids == (0, 0) or not here):
        dumpable = None
    return Target(found, namespaces, elsewhere, dumpable, there.st_uid)


def host_of(proc: str = PROC) -> Host:
    """Of this host and process."""
    ours = _place(f"{proc}/self/ns/user")
    unmapped = None
    if ours is None or ours[1] != INITIAL_USER_NAMESPACE:
        unmapped = _overflow(proc, "uid"), _overflow(proc, "gid")
    return Host(_yama(proc), unmapped, label_of(f"{proc}/self"))


def _yama(proc: str) -> int:
    try:
        with open(f"{proc}/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        # Without Yama its folder is not there; with subset=pid none is.
        return 0 if os.path.isdir(f"{proc}/sys/kernel") else NOT_KNOWN
    except (OSError, ValueError):
        return NOT_KNOWN


def label_of(folder: str) -> str:
    """The security label of a process, by its folder; empty where there is none."""
    return _text(f"{folder}/attr/current").strip("\0\n ")


def _user_namespaces(path: str) -> tuple[UserNamespace, ...]:
    found: list[UserNamespace] = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    while fd >= 0:
        at = os.fstat(fd)
        found.append(UserNamespace((at.st_dev, at.st_ino), _owner_of(fd)))
        parent = _parent_of(fd) if len(found) < _NAMESPACES_MAX else -1
        os.close(fd)
        fd = parent
    return tuple(found)


def _parent_of(fd: int) -> int:
    try:
        return fcntl.ioctl(fd, NS_GET_PARENT)
    except OSError:  # EPERM: of the initial one, and of the one that we are in
        return -1


def _owner_of(fd: int) -> int:
    try:
        (owner,) = struct.unpack("I", fcntl.ioctl(fd, NS_GET_OWNER_UID, bytes(4)))
    except OSError:
        return -1
    return int(owner)


def _overflow(proc: str, kind: str) -> int:
    text = _text(f"{proc}/sys/kernel/overflow{kind}").strip()
    return int(text) if text.isdecimal() else 65534


def _place(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _text(path: str) -> str:
    """Of a file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""


def _four(text: str) -> tuple[int, ...]:
    found = tuple(map(int, text.split()))
    if len(found) != 4:
        raise ValueError
    return found
