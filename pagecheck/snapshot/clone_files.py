"""What a clone has of its own on a file system: made where nothing is, removed at the end.

Danger: qemu-img and QEMU write over, or remove, what has the name that they are given, and others
may write in that folder too. Decision: the name is taken here first, which fails where it exists.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.report.publish import new_name
from pagecheck.shortage import explain

_FOLDERS = "pagecheck-clones-"
_TRIES = 16


def new_folder(undo: contextlib.ExitStack) -> tuple[str, int]:
    """A new folder for sockets and overlays, in TMPDIR or /tmp. Those that killed clones of this
    user left there are removed, with what is in them, where no VM uses it any more.

    Args:
        undo: removes it if nothing is in it.

    Returns:
        The folder, and a descriptor with its lock, which QEMUs that use the folder have to inherit:
        it is in use as long as a process has that.

    Raises:
        OSError: it cannot be made.
    """
    place = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # importing `tempfile` takes longer
    _remove_left(place)
    for _ in range(_TRIES):
        folder = os.path.join(place, new_name(_FOLDERS))
        os.mkdir(folder, 0o700)
        undo.callback(remove_folder, folder)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = _owned(folder)
            undo.callback(os.close, lock)
            return folder, lock
    raise BlockingIOError(errno.EBUSY, "other clones remove what is made there")


def _remove_left(place: str) -> None:
    try:
        names = os.listdir(place)
    except OSError:  # it may be writable all the same
        return
    for name in names:
        if name.startswith(_FOLDERS):
            with contextlib.suppress(OSError):  # it is somebody else's, or in use
                _remove_one_left(os.path.join(place, name))


def _remove_one_left(folder: str) -> None:
    fd = _owned(folder, must_lock=True)
    try:
        names = os.listdir(fd)
        if all(n.startswith("clone") and n.endswith((".qmp", ".qcow2")) for n in names):
            for name in names:
                os.unlink(name, dir_fd=fd)
            os.rmdir(folder)
    finally:
        os.close(fd)


def _owned(folder: str, *, must_lock: bool = False) -> int:
    """This user's folder, locked until it is closed here and in those who inherit it.

    Args:
        must_lock: fail where its file system has no locks: nobody is known to have gone there.

    Raises:
        FileNotFoundError: it was removed.
        BlockingIOError: another process has it locked.
        OSError: it cannot be opened, or is another user's.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            if must_lock:
                raise
        status = os.fstat(fd)
        if status.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), folder)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_empty(path: str, undo: contextlib.ExitStack) -> None:
    """Creates an empty file.

    Args:
        undo: removes it.

    Raises:
        OutputError: something has that name, or it cannot be created.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _not_created(path, error) from error
    undo.callback(_remove, path)


def bound_socket(path: str, undo: contextlib.ExitStack) -> socket.socket:
    """A socket of that name, at which a QEMU can listen.

    Raises:
        OutputError: something has that name, or it cannot be created.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(path)
        undo.callback(_remove, path)
        os.chmod(path, 0o600)
    except OSError as error:
        made.close()
        raise _not_created(path, error) from error
    return made


def remove_folder(path: str) -> None:
    """Removes a folder if nothing is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _not_created(path: str, error: OSError) -> OutputError:
    if error.errno in (errno.EEXIST, errno.EADDRINUSE):
        return OutputError(f"{printable(path)}: exists, and is left as it is; name another folder")
    why = explain(error) or error.strerror or str(error)  # a path may be too long for a socket
    return OutputError(f"{printable(path)}: cannot be created: {why}")
