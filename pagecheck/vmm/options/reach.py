"""The sockets by which a VM is reached: those of its command line that its process listens on.

Facts: a path on a command line is of the VMM's mount namespace and root, relative to its folder; a
socket may be given by descriptor; /proc/PID/net/unix lists the Unix sockets of the process's
network namespace, and connected ones have the listener's path. A QMP socket serves one client.
Danger: to find out by connecting would take a monitor away from its owner. Decision: nothing is
connected to; a socket that is gone, or that this user may not connect to, is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from pagecheck.vmm.kinds import CROSVM, KINDS, QEMU
from pagecheck.vmm.options.ram_options import ControlSocket

_ACCEPTS: Final = 0x10000  # Source: __SO_ACCEPTCON in linux/net.h
# Reference count, protocol, flags, type, state, inode, path. Source: unix_seq_show().
_LINE: Final = re.compile(
    r"[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]+) [0-9A-F]+ [0-9A-F]+ +(\d+) (.+)\n", re.ASCII
)
_PATH_MAX: Final = 107  # bytes that connect(2) takes. Source: struct sockaddr_un in linux/un.h
_DESCRIPTORS_MAX: Final = 4096
_LINES_MAX: Final = 100_000


class Reach(NamedTuple):
    """How a VM is reached.

    Attributes:
        sources: such as "qmp:/run/vm1.qmp".
        in_use: the same of QMP sockets that have a client, so that no other is served.
    """

    sources: tuple[str, ...]
    in_use: tuple[str, ...]


class _Socket(NamedTuple):
    """A line of /proc/PID/net/unix."""

    inode: int
    path: str
    listens: bool


def reach_of(folder: str, sockets: tuple[ControlSocket, ...]) -> Reach:
    """How a VM is reached by its control sockets.

    Args:
        folder: its process's in /proc.
        sockets: those of its command line.
    """
    if not sockets:
        return Reach((), ())
    held = _held(folder)
    used = {each.path for each in held.values() if not each.listens}
    free: list[str] = []
    in_use: list[str] = []
    for each in sockets:
        path = _path(each, held)
        shown = _from_here(folder, path) if path and not path.startswith("@") else None
        if shown is not None and _is_source(each.kind):
            busy = each.kind == QEMU.prefix and path in used
            (in_use if busy else free).append(f"{each.kind}:{shown}")
    return Reach(tuple(dict.fromkeys(free)), tuple(dict.fromkeys(in_use)))


def _is_source(kind: str) -> bool:
    """crosvm's socket is spoken to by its own program only."""
    return kind in KINDS and (kind != CROSVM.prefix or shutil.which("crosvm") is not None)


def descriptors(folder: str) -> Iterator[tuple[int, str]]:
    """The descriptors of a process, and what they lead to; none where they may not be seen, and not
    all of very many."""
    with contextlib.suppress(OSError), os.scandir(f"{folder}/fd") as found:
        for each, _ in zip(found, range(_DESCRIPTORS_MAX), strict=False):
            with contextlib.suppress(OSError):
                yield int(each.name), os.readlink(each.path)


def _held(folder: str) -> dict[int, _Socket]:
    """The Unix sockets of a process that have a path, by descriptor."""
    numbers = {}
    for fd, leads_to in descriptors(folder):
        if leads_to.startswith("socket:["):
            numbers[fd] = int(leads_to[len("socket:[") : -1])
    if not numbers:
        return {}
    by_inode: dict[int, _Socket] = {}
    twice = set()
    for each in _unix_sockets(folder):
        if each.inode in by_inode:  # a line of somebody's who has a line break in a path
            twice.add(each.inode)
        by_inode[each.inode] = each
    seen = by_inode.keys() - twice
    return {fd: by_inode[inode] for fd, inode in numbers.items() if inode in seen}


def _unix_sockets(folder: str) -> Iterator[_Socket]:
    with contextlib.suppress(OSError), open(f"{folder}/net/unix", "rb") as file:
        for line, _ in zip(file, range(_LINES_MAX), strict=False):
            if (match := _LINE.fullmatch(os.fsdecode(line))) is not None:
                flags, inode, path = match.groups()
                yield _Socket(int(inode), path, bool(int(flags, 16) & _ACCEPTS))


def _path(given: ControlSocket, held: dict[int, _Socket]) -> str | None:
    """The path that a control socket is bound to, as its process wrote it; None where the process
    is seen not to listen there."""
    if given.fd >= 0:
        there = held.get(given.fd)
        return there.path if there is not None and there.listens else None
    if held and not any(each.path == given.path and each.listens for each in held.values()):
        return None
    return given.path


def _from_here(folder: str, path: str) -> str | None:
    """The path by which we reach a socket of a process's; None where we do not."""
    try:
        if not path.startswith("/"):
            path = os.path.normpath(f"{os.readlink(f'{folder}/cwd')}/{path}")
        if not (_same(f"{folder}/root", "/") and _same(f"{folder}/ns/mnt", "/proc/self/ns/mnt")):
            path = f"{folder}/root{path}"
    except OSError:  # of another user: it is as if it were in our namespace, if it is there at all
        if not path.startswith("/"):
            return None
    if len(os.fsencode(path)) > _PATH_MAX:
        return None
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and os.access(path, os.W_OK):
            return path
    return None


def _same(one: str, other: str) -> bool:
    return os.path.samestat(os.stat(one), os.stat(other))
