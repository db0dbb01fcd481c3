"""A write lease: the kernel's word that no other process has a file open or mapped.

Facts: who wants to open the file then waits until the lease is released, at most for
/proc/sys/fs/lease-break-time, after which the lease is gone. From the moment on that somebody
waits, F_GETLEASE tells; so does a signal, which would end this process.

Source: fcntl(2); check_conflicting_open() in the kernel's fs/locks.c: a mapping counts as its file.
"""

from __future__ import annotations

import _signal
import contextlib
import fcntl


def take(fd: int) -> None:
    """Asks for the lease.

    Raises:
        BlockingIOError: another process has the file open.
        PermissionError: the file is another user's, and CAP_LEASE is lacking.
        OSError: its file system has no leases.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, _signal.SIGURG)  # ignored by default
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def is_whole(fd: int) -> bool:
    """Whether it was held until now, and nobody waits for the file."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def release(fd: int) -> None:
    """Lets others open the file."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
