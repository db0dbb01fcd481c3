"""Where the service listens: a path, an inherited descriptor, or what systemd passes on; and what
it tells systemd."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final

from pagecheck.errors import ResourceError, UsageError

LISTEN_FD: Final = 3
BACKLOG: Final = 1024
LOCK_S: Final = 5.0


class Listener:
    """A listening Unix stream socket; a context manager that removes only the path it made."""

    def __init__(self, listening: socket.socket, path: str | None, text: str) -> None:
        """Takes the socket over.

        Args:
            path: where it was bound by us, or None.
            text: for messages.
        """
        self.socket = listening
        self.text = text
        self._path = path
        self._inode = os.stat(path).st_ino if path is not None else 0
        listening.setblocking(False)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Listens no more. May be called twice."""
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == self._inode:
                    os.unlink(path)
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
            raise UsageError(f"--fd {fd}: is no socket")
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"--fd {fd}: {error.strerror}; pass an open socket on") from error
    os.set_inheritable(fd, False)
    if inherited.family != socket.AF_UNIX or inherited.type != socket.SOCK_STREAM:
        raise UsageError(f"--fd {fd}: is no Unix stream socket")
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError(f"--fd {fd}: does not listen")
    return Listener(inherited, None, f"fd {fd}")


def _bind(path: str, *, for_others: bool) -> Listener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        with _only_one(os.path.dirname(path) or "."):
            _remove_stale(path)
            listening.bind(path)
            if for_others:
                os.chmod(path, 0o666)
            listening.listen(BACKLOG)
        return Listener(listening, path, path)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ResourceError(f"{path}: cannot listen there: {reason}") from error
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(old)


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[None]:
    """One start at a time in a folder: between bind and listen a socket looks like a stale one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on any more.

    Raises:
        UsageError: somebody does, or it is no socket.
    """
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(st.st_mode):
        raise UsageError(f"{path}: exists and is no socket; give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue is full
            pass
    raise UsageError(f"{path}: another process listens there; give another path")


def notify(state: str) -> None:
    """Tells systemd, where it asked to be told; a failure is not worth ending for.

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
