"""What a clone has of its own on a file system: made where nothing is, removed at the end.

Danger: qemu-img and QEMU write over, or remove, what has the name that they are given, and others
may write in that folder too. Decision: the name is taken here first, which fails where it exists.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.shortage import explain


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
