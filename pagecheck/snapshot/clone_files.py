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
import stat

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.report.publish import new_name
from pagecheck.shortage import explain

_FOLDERS = "pagecheck-clones-"


def new_folder(undo: contextlib.ExitStack) -> str:
    """A new folder for sockets and overlays, in TMPDIR or /tmp. Those that killed clones of this
    user left there are removed, with what is in them, where no VM uses it any more.

    Args:
        undo: removes it if nothing is in it.

    Raises:
        OSError: it cannot be made.
    """
    place = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # importing `tempfile` takes longer
    _remove_left(place)
    while True:
        folder = os.path.join(place, new_name(_FOLDERS))
        os.mkdir(folder, 0o700)
        undo.callback(remove_folder, folder)
        fd = _locked(folder)  # fails where another one takes it for left behind, and removes it
        if fd is not None:
            undo.callback(os.close, fd)
            return folder


def _remove_left(place: str) -> None:
    for name in os.listdir(place):
        if name.startswith(_FOLDERS):
            with contextlib.suppress(OSError):  # it is somebody else's, or has a VM
                _remove_one_left(os.path.join(place, name))


def _remove_one_left(folder: str) -> None:
    fd = _locked(folder)
    if fd is None:
        return
    try:
        names = os.listdir(fd)
        ours = all(n.startswith("clone") and n.endswith((".qmp", ".qcow2")) for n in names)
        if ours and not any(_is_in_use(f"/proc/self/fd/{fd}/{name}") for name in names):
            for name in names:
                os.unlink(name, dir_fd=fd)
            os.rmdir(folder)
    finally:
        os.close(fd)


def _locked(folder: str) -> int | None:
    """This user's folder, locked until it is closed here, which QEMUs do not inherit; None where
    it is not there, another user's, or locked by others."""
    fd = None
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and status.st_nlink > 0:  # 0: it was removed meanwhile
            return fd
    except OSError:
        pass
    if fd is not None:
        os.close(fd)
    return None


def _is_in_use(path: str) -> bool:
    """Whether it is a socket at which somebody listens, who does not see that we ask."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        return asking.connect_ex(path) != errno.ECONNREFUSED  # of another type: EPROTOTYPE


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
