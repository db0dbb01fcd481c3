"""The process at the other end of a connection: its credentials as it connected, and whether it is
still what it was then.

Facts: SO_PEERCRED and SO_PEERGROUPS keep the effective ids and the groups of connect(2); what
capabilities and namespaces the process has is in /proc alone, and is of now. Danger: a process may
connect and then execute a program with set-uid or capabilities, whose output somebody else has
chosen; its number may become another process's; its connection may be passed on. Decision: a pidfd
and the process's address space, both opened before the client is greeted, prove that it is the
process that connected and that it has executed nothing since; its ids are those of connect(2) or
nothing; capabilities count only in a process that is dumpable, which one that got them from its
program's file is not; and it must have sent the request itself. Whatever is in doubt is an error.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.errors import AccessError, PagecheckError
from pagecheck.service.connecting import credentials, groups
from pagecheck.vmm.process.credentials import host_of, target_of
from pagecheck.vmm.process.memory import number_in_proc

if TYPE_CHECKING:
    from pagecheck.vmm.process.credentials import Credentials

SYS_OPENAT2: Final = 437  # on every architecture. Source: asm-generic/unistd.h
RESOLVE_IN_ROOT: Final = 0x10  # Source: linux/openat2.h
SO_PEERPIDFD: Final = 77  # since Linux 6.5. Source: asm-generic/socket.h

_ELSEWHERE: Final = "run the service where it can see its clients, as root and in their namespaces"


class ClientProcess:
    """What is known of a client's process. Only the client's own thread uses it.

    Attributes:
        pid, gid: as SO_PEERCRED names them.
        number: what /proc calls it; 0 where nothing is known of it.
    """

    def __init__(self, connected: socket.socket) -> None:
        """Looks at the process, before the client was sent anything. Where that fails, what it may
        do is not known, and `known` says why."""
        self.pid = 0
        self.gid = 0
        self.number = 0
        self._why = ""
        self._pidfd = self._space = -1
        self._found: Credentials | None = None
        try:
            self._look(connected)
        except AccessError as error:
            self._why = str(error)
        except (OSError, OverflowError, PagecheckError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self._why = f"the service cannot see the client's process ({why}); {_ELSEWHERE}"

    def _look(self, connected: socket.socket) -> None:
        self.pid, uid, self.gid = credentials(connected)
        gid = self.gid
        if self.pid <= 0:
            raise AccessError(f"the client is in another pid namespace; {_ELSEWHERE}")
        self._pidfd = _peer_pidfd(connected, self.pid)
        number = number_in_proc(self._pidfd, self.pid)
        self._space = os.open(f"/proc/{number}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        found = _credentials(number)
        ids = {uid}, {gid}, set(groups(connected))
        if (set(found.uids), set(found.gids), set(found.groups)) != ids:
            raise AccessError(
                "the client has several user ids or group ids, or has changed them since it "
                "connected; connect from a process that has one of each"
            )
        if found.user_namespace is None:
            raise AccessError(f"the client's user namespace cannot be seen; {_ELSEWHERE}")
        unmapped = host_of().unmapped
        if unmapped is not None and (uid == unmapped[0] or unmapped[1] in {gid, *found.groups}):
            raise AccessError(f"an id of the client has no number here; {_ELSEWHERE}")
        self._require_unchanged()
        self.number, self._found = number, found

    def known(self, sender: int) -> Credentials:
        """The credentials that a request is judged by.

        Args:
            sender: the process that sent it, as the kernel says.

        Raises:
            AccessError: they are not certain; the text has the reason and the way out.
        """
        if self._found is None:
            raise AccessError(self._why)
        if sender != self.pid:
            who = f"process {sender}" if sender else "several processes"
            raise AccessError(
                f"the request was sent by {who}, but process {self.pid} connected; each process is "
                "to connect itself"
            )
        try:
            now = _credentials(self.number)
        except OSError:
            now = None
        self._require_unchanged()
        if now != self._found:
            raise AccessError(
                f"the credentials of process {self.pid} are not those that it connected with; "
                "connect again"
            )
        return self._found

    def _require_unchanged(self) -> None:
        """Raises AccessError where the process has ended or executed a program since its address
        space was opened. That of the past has no pages any more."""
        if clock.wait_ready(self._pidfd, 0) or not os.pread(self._space, 8, 0):
            raise AccessError(
                f"process {self.pid} has ended, or executed another program, since it connected; "
                "connect again"
            )

    def shares_pids(self) -> bool:
        """Whether a process id means the same to the client as to the service."""
        return self._shares("ns/pid")

    def shares_paths(self) -> bool:
        """Whether a path does. It does not for a service that systemd gave mounts of its own."""
        return self._shares("ns/mnt") and self._shares("root")

    def _shares(self, name: str) -> bool:
        try:
            theirs = os.stat(f"/proc/{self.number}/{name}")
            return os.path.samestat(theirs, os.stat(f"/proc/self/{name}"))
        except OSError:
            return False

    def seen(self, path: str) -> tuple[int, int] | None:
        """Device and inode of what is at a path in the client's mount namespace and root directory;
        links are followed there. None: nothing, or that cannot be seen."""
        try:
            root = os.open(f"/proc/{self.number}/root", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fd = _open_in(root, path)
        except OSError:
            return None
        finally:
            os.close(root)
        found = os.fstat(fd)
        os.close(fd)
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Forgets the process. May be called twice."""
        for fd in (self._pidfd, self._space):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._space = -1
        self._found, self._why = None, "the connection is closed"


def _peer_pidfd(connected: socket.socket, pid: int) -> int:
    """A pidfd of the process that connected.

    Raises:
        AccessError: it ended, or it may be another one that got its number.
    """
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, struct.calcsize("i"))
        return int(struct.unpack("i", raw)[0])
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
    pidfd = os.pidfd_open(pid)
    # An older kernel: who sends from now on, under that number, is the process that we opened.
    (waiting,) = struct.unpack("i", fcntl.ioctl(connected, termios.FIONREAD, bytes(4)))
    if waiting:
        os.close(pidfd)
        raise AccessError("the client sent a request before it was greeted; connect again")
    return pidfd


def _open_in(root: int, path: str) -> int:
    """A descriptor of what a path leads to below a directory, as if that were the root directory.

    Source: openat2(2).
    """
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    number, at, size = map(ctypes.c_long, (SYS_OPENAT2, root, len(how)))
    fd = libc.syscall(number, at, os.fsencode(path), how, size)
    if fd < 0:
        raise OSError(ctypes.get_errno(), path)
    return int(fd)


def _credentials(number: int) -> Credentials:
    """Of the client, as far as they count. Raises OSError where /proc does not show it."""
    target = target_of(number)
    if target.dumpable is False:
        return target.credentials._replace(effective=0, permitted=0)
    return target.credentials
