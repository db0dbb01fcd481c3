"""Messages between the coordinator and one worker: JSON lines with file descriptors beside them.

One packet of a Unix SOCK_SEQPACKET pair is one line. End of file means the other side is dead.
"""

from __future__ import annotations

import _socket  # `socket` wraps it for programs with other wishes, at the cost of every start
import errno
import os
import sys

from pagecheck import clock
from pagecheck.child import lines
from pagecheck.errors import InternalError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Any, Final

MESSAGE_BYTES: Final = 65536
FDS: Final = 5  # a process's pagemap, memory and file; a sink and its state
_FD_BYTES: Final = 4  # a C int

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


def above_standard(fd: int) -> int:
    """Moves a descriptor for another program to a number that is none of 0 to 2, which such a
    program has for other things and a host program may have closed.

    Returns:
        Its number now; `fd` is closed if that is another one, and after an error.

    Raises:
        OSError: no other number can be had.
    """
    if fd > 2:
        return fd
    from fcntl import F_DUPFD_CLOEXEC, fcntl  # rare

    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


class Closed(Exception):
    """The other side closed its end: it is dead or dying."""


class Link:
    """One end of the socket pair."""

    def __init__(self, end: _socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Two connected ends; neither is inherited by a program that is started. The second is
        for such a program."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            return cls(ours), cls.inherited(above_standard(theirs.detach()))
        except OSError:
            ours.close()
            raise

    @classmethod
    def inherited(cls, fd: int) -> Link:
        """The end that a worker was started with."""
        return cls(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd))

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
        line = lines.dumps(message).encode() + b"\n"
        if len(line) > MESSAGE_BYTES:
            raise InternalError(f"message of {len(line)} bytes exceeds {MESSAGE_BYTES}")
        try:
            body = b"".join(fd.to_bytes(_FD_BYTES, sys.byteorder) for fd in fds)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, body)] if fds else []
            self._socket.sendmsg([line], rights, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except OSError as error:
            self._raise_if_gone(error)
            raise

    def receive(self, deadline_ns: int) -> tuple[dict[str, Any], list[int]] | None:
        """Waits for one message until the absolute CLOCK_MONOTONIC time.

        Returns:
            The message and its descriptors (now ours), or None when the time passed.

        Raises:
            Closed: end of file.
            OSError: there is no descriptor left for what came with it.
            InternalError: what came is not a message of ours.
        """
        if self._socket.fileno() < 0:
            raise Closed("closed here")
        if not clock.wait_ready(self._socket.fileno(), deadline_ns):
            return None
        try:
            line, fds, flags = self._receive_with_fds()
        except OSError as error:
            self._raise_if_gone(error)
            raise
        if flags & _socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not line:
            raise Closed("end of file")
        try:
            message = lines.loads(line.decode())
        except ValueError as error:
            raise InternalError(
                f"not a line of JSON on the worker socket: {line[:80]!r}"
            ) from error
        if not isinstance(message, dict):
            raise InternalError(f"not a message on the worker socket: {line[:80]!r}")
        return message, fds

    def _raise_if_gone(self, error: OSError) -> None:
        """Raises `Closed` where the error means that an end is closed: the other, or ours, which
        another thread may close at any moment."""
        if error.errno in _GONE or self._socket.fileno() < 0:
            raise Closed(str(error)) from error

    def _receive_with_fds(self) -> tuple[bytes, list[int], int]:
        """What came, the descriptors with it, and the flags that it came with."""
        room = _socket.CMSG_LEN(FDS * _FD_BYTES)
        line, beside, flags, _address = self._socket.recvmsg(MESSAGE_BYTES, room)
        fds = [
            int.from_bytes(rights[at : at + _FD_BYTES], sys.byteorder)
            for level, kind, rights in beside
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
            for at in range(0, len(rights) - _FD_BYTES + 1, _FD_BYTES)
        ]
        return line, fds, flags

    def close(self) -> None:
        """Closes this end; the other side reads end of file."""
        self._socket.close()
