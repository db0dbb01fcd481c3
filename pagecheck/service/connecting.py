"""Connecting to a service, and who is at the other end of a Unix socket, as the kernel says."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from pagecheck import clock
from pagecheck.errors import AccessError, PeerError

QUEUE_S: Final = 0.01
SO_PEERGROUPS: Final = 59  # Source: asm-generic/socket.h
GROUPS_MAX: Final = 256  # getsockopt of Python gives 1024 bytes at most


def credentials(connected: socket.socket) -> tuple[int, int, int]:
    """(process, user, group) of the other end as it connected or began to listen.

    Source: unix(7), SO_PEERCRED.
    """
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("iII", raw)
    return pid, uid, gid


def groups(connected: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the other end as it connected.

    Raises:
        AccessError: there are more than 256.
        OSError: the kernel does not report them.

    Source: sock_getsockopt() in the kernel's net/core/sock.c, SO_PEERGROUPS.
    """
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * GROUPS_MAX)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        raise AccessError(
            f"the client is in more than {GROUPS_MAX} groups, which cannot be compared; connect "
            "with fewer"
        ) from error
    return struct.unpack(f"{len(raw) // 4}I", raw)


def connect(path: str, timeout: float) -> socket.socket:
    """A socket connected to the service at a path.

    Raises:
        PeerError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    until = clock.now_s() + timeout
    try:
        while True:
            try:
                connection.connect(path)
                return connection
            except BlockingIOError:  # its queue is full, and a Unix socket does not wait for that
                if clock.now_s() > until:
                    raise
                clock.sleep_s(QUEUE_S)
    except (OSError, ValueError) as error:
        connection.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise PeerError(
            f"{path}: no service there: {reason}; start one with pagecheck serve --socket {path}"
        ) from error
