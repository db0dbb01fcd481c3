"""A socket made at a path, in a folder that may be another user's.

Danger: who may write in the folder can exchange every name in it between two of our calls, and
lead us by a symlink to a file that they could not reach themselves. Decision: the mode comes from
the umask at the bind and is never changed by path; names are looked up, compared and removed
through the folder's descriptor, and no last component is followed. Two starts are kept apart by a
file of our own, since whoever may read a folder may also lock it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final

from pagecheck import clock
from pagecheck.errors import ResourceError, UsageError

LOCK_S: Final = 5.0
LOOK_S: Final = 0.01
UMASK_OURS: Final = 0o177
UMASK_EVERYBODY: Final = 0o111

# A file of another user's, one with a lease, a symlink, a folder, a device without a driver.
_IN_THE_WAY: Final = (errno.EACCES, errno.EAGAIN, errno.ELOOP, errno.EISDIR, errno.ENXIO)


class SocketPath:
    """The name of a bound socket, held by its folder's descriptor.

    Attributes:
        path: as the user gave it.
    """

    def __init__(self, path: str, folder: int, inode: tuple[int, int]) -> None:
        """Takes the descriptor over.

        Args:
            inode: device and inode of the socket, which alone is removed.
        """
        self.path = path
        self._name = os.path.basename(path)
        self._folder = folder
        self._inode = inode

    def remove(self) -> None:
        """Removes the name if it is still the socket's. May be called twice."""
        folder, self._folder = self._folder, -1
        if folder < 0:
            return
        _unlink(folder, self._name, self._inode)
        os.close(folder)


def bind(listening: socket.socket, path: str, *, for_others: bool, backlog: int) -> SocketPath:
    """Binds a socket to a new name and listens; a name that nobody listens on is replaced.

    Must be called while no other thread creates files: the umask is the process's.

    Args:
        for_others: everybody may connect, else only our user.

    Raises:
        UsageError: somebody listens there, or what is there is not a socket.
        ResourceError: another start is at work, or the folder's owner exchanged the name.
        OSError: it cannot be bound.
    """
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _only_one(folder, path):
            _remove_stale(folder, path)
            old = os.umask(UMASK_EVERYBODY if for_others else UMASK_OURS)
            try:
                listening.bind(path)
            finally:
                os.umask(old)
            inode = _bound_inode(folder, path)
            try:
                listening.listen(backlog)
            except BaseException:
                _unlink(folder, os.path.basename(path), inode)
                raise
        return SocketPath(path, folder, inode)
    except BaseException:
        os.close(folder)
        raise


def _inode(st: os.stat_result) -> tuple[int, int]:
    return st.st_dev, st.st_ino


def _unlink(folder: int, name: str, inode: tuple[int, int]) -> None:
    """Removes a name as long as it is that inode's."""
    with contextlib.suppress(OSError):
        if _inode(os.lstat(name, dir_fd=folder)) == inode:
            os.unlink(name, dir_fd=folder)


def _bound_inode(folder: int, path: str) -> tuple[int, int]:
    try:
        st = os.lstat(os.path.basename(path), dir_fd=folder)
    except FileNotFoundError:
        st = None
    if st is None or not stat.S_ISSOCK(st.st_mode) or st.st_uid != os.geteuid():
        raise ResourceError(
            f"{path}: it was exchanged while it was made; use a folder that only root, or the "
            "service's user, may write in"
        )
    return _inode(st)


@contextlib.contextmanager
def _only_one(folder: int, path: str) -> Iterator[None]:
    """One start at a time for this path: between bind and listen a socket looks like a stale one.

    Raises:
        ResourceError: another start holds the lock for too long.
        UsageError: the lock's name is another user's.
    """
    name = f"{os.path.basename(path)}.lock"
    until = clock.now_s() + LOCK_S
    while (lock := _try_lock(folder, name, path)) is None:
        if clock.now_s() > until:
            raise ResourceError(
                f"{path}.lock: another start of a service at {path} holds it for {LOCK_S:g} s; "
                "look for a stopped process"
            )
        clock.sleep_s(LOOK_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        os.close(lock)


def _try_lock(folder: int, name: str, path: str) -> int | None:
    """A descriptor that holds the lock, or None: another start has it at this moment."""
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in _IN_THE_WAY and _exists(folder, name):
            raise _not_ours(path) from error
        raise
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid() or st.st_nlink > 1:
            raise _not_ours(path)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _inode(os.lstat(name, dir_fd=folder)) == _inode(st):
            return fd  # else its last holder removed it between our two calls
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _exists(folder: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _not_ours(path: str) -> UsageError:
    return UsageError(
        f"{path}.lock: is in the way and is not a file of ours; remove it, or put the socket into "
        "a folder where only root, or the service's user, may write"
    )


def _remove_stale(folder: int, path: str) -> None:
    """Removes a socket that nobody listens on any more.

    Raises:
        UsageError: somebody does, or it is not a socket.
    """
    name = os.path.basename(path)
    try:
        there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return
    try:
        st = os.fstat(there)
        if not stat.S_ISSOCK(st.st_mode):
            raise UsageError(f"{path}: exists and is not a socket; give another path")
        if _is_listening(there):
            raise UsageError(f"{path}: another process listens there; give another path")
    finally:
        os.close(there)
    _unlink(folder, name, _inode(st))


def _is_listening(there: int) -> bool:
    """Whether somebody listens on the socket that an O_PATH descriptor holds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"/proc/self/fd/{there}")
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its queue is full
            pass
    return True
