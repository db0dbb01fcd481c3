"""Messages between the coordinator and one worker: JSON lines with file descriptors beside them.

One packet of a Unix SOCK_SEQPACKET pair is one line. End of file means the other side is dead.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket

from pagecheck import clock
from pagecheck.errors import InternalError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Any, Final

MESSAGE_BYTES: Final = 65536
FDS: Final = 4

# What the other side's end, and buffers that it does not empty, make of a call; EBADF: closed here.
# Every other error is a shortage of our own, such as too many descriptors on their way.
_GONE: Final = (
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.EBADF,
    errno.EAGAIN,
)


class Closed(Exception):
    """The other side closed its end: it is dead or dying."""


class Link:
    """One end of the socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Two connected ends; neither is inherited by a program that is started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def inherited(cls, fd: int) -> Link:
        """The end that a worker was started with."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Sends one message without waiting: the buffers hold many, so a full one means that the
        other side hangs.

        Raises:
            Closed: the other side is gone, or takes no more.
            OSError: the kernel did not take it, for want of something on our side.
        """
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(line) > MESSAGE_BYTES:
            raise InternalError(f"message of {len(line)} bytes exceeds {MESSAGE_BYTES}")
        try:
            # Not socket.send_fds: before Python 3.12 it drops its flags.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._socket.sendmsg([line], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise Closed(str(error)) from error

    def receive(self, deadline_ns: int) -> tuple[dict[str, Any], list[int]] | None:
        """Waits for one message until the absolute CLOCK_MONOTONIC time.

        Returns:
            The message and its descriptors (now ours), or None when the time passed.

        Raises:
            Closed: end of file.
            OSError: there is no descriptor left for what came with it.
            InternalError: what came is no message of ours.
        """
        if self._socket.fileno() < 0:
            raise Closed("closed here")
        if not clock.wait_ready(self._socket.fileno(), deadline_ns):
            return None
        try:
            line, fds, flags, _address = socket.recv_fds(self._socket, MESSAGE_BYTES, FDS)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise Closed(str(error)) from error
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not line:
            raise Closed("end of file")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise InternalError(
                f"not a line of JSON on the worker socket: {line[:80]!r}"
            ) from error
        if not isinstance(message, dict):
            raise InternalError(f"not a message on the worker socket: {line[:80]!r}")
        return message, list(fds)

    def close(self) -> None:
        """Closes this end; the other side reads end of file."""
        self._socket.close()
