"""Where the service listens: a path, an inherited descriptor, or what systemd passes on; and what
systemd is notified of."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Final

from pagecheck.errors import ResourceError, UsageError
from pagecheck.service.socket_path import SocketPath, bind

LISTEN_FD: Final = 3
BACKLOG: Final = 1024


class Listener:
    """A listening Unix stream socket; a context manager that removes only the path it made."""

    def __init__(self, listening: socket.socket, made: SocketPath | None, text: str) -> None:
        """Takes the socket over.

        Args:
            made: the name that was made for it, or None.
            text: for messages.
        """
        self.socket = listening
        self.text = text
        self._made = made
        listening.setblocking(False)
        # Who is accepted inherits it, so that the kernel says of every byte who sent it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening. May be called twice."""
        if self._made is not None:
            self._made.remove()
        self.socket.close()


def listen(path: str | None, fd: int | None, *, for_others: bool) -> Listener:
    """Opens the socket in the one way that was asked for.

    Args:
        path: a new socket is made there, mode 0600.
        fd: an inherited descriptor of a bound Unix stream socket.
        for_others: other users were allowed: the new socket's mode is 0666, and who connects is
            looked at.

    Raises:
        UsageError: none, or more than one, of the ways; or it is not such a socket.
        ResourceError: it cannot be bound.
    """
    if path is not None and fd is not None:
        raise UsageError("--socket and --fd exclude each other")
    if path is not None:
        return _bind(path, for_others=for_others)
    if fd is None:
        fd = _from_systemd()
    if fd is None:
        raise UsageError("no socket: give --socket PATH or --fd N, or start it by a systemd socket")
    return _inherited(fd)


def _from_systemd() -> int | None:
    """The one descriptor that systemd passes on, if it does. Source: sd_listen_fds(3)."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        return None
    if count != "1":
        raise UsageError(f"systemd passed {count} sockets; the service listens on one")
    return LISTEN_FD


def _inherited(fd: int) -> Listener:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise UsageError(f"--fd {fd}: is not a socket")
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"--fd {fd}: {error.strerror}; pass an open socket on") from error
    os.set_inheritable(fd, False)
    if inherited.family != socket.AF_UNIX or inherited.type != socket.SOCK_STREAM:
        raise UsageError(f"--fd {fd}: is not a Unix stream socket")
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError(f"--fd {fd}: does not listen")
    return Listener(inherited, None, f"fd {fd}")


def _bind(path: str, *, for_others: bool) -> Listener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return Listener(
            listening, bind(listening, path, for_others=for_others, backlog=BACKLOG), path
        )
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ResourceError(f"{path}: cannot listen there: {reason}") from error
    except BaseException:
        listening.close()
        raise


def notify(state: str) -> None:
    """Notifies systemd, where it asked for that; a failure is ignored.

    Source: sd_notify(3): a datagram to $NOTIFY_SOCKET, whose first '@' stands for a zero byte.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(state.encode(), address)
