"""Connecting to a service, and who is at the other end of a Unix socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
from typing import Final

from pagecheck import clock
from pagecheck.errors import PeerError

QUEUE_S: Final = 0.01


def credentials(connected: socket.socket) -> tuple[int, int]:
    """(process, user) of the other end as it connected or began to listen.

    Source: unix(7), SO_PEERCRED.
    """
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", raw)
    return pid, uid


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
