"""Shared memory that we create: named segments, removed by their creator only, and memfds, which
need no name where a descriptor is passed on. Both are allocated at once.

A segment's pages are allocated when it is created, so that a full /dev/shm is an error here and
never a SIGBUS later. posix_ipc creates and removes; never multiprocessing.shared_memory, whose
resource tracker unlinks names that other processes own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource

import posix_ipc

from pagecheck.errors import ResourceError
from pagecheck.shortage import explain, refused

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final


class Segment:
    """A named segment and its descriptor; `remove` the name, `close` the descriptor."""

    def __init__(self, name: str, size: int) -> None:
        """Creates and allocates it.

        Args:
            name: POSIX name with a leading slash.
            size: bytes.

        Raises:
            ResourceError: /dev/shm is full, or the name cannot be created.
        """
        self.name = name
        self.size = size
        try:
            created = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
        except (posix_ipc.Error, OSError, ValueError) as error:
            why = _why_not_created(error, size)
            raise ResourceError(f"/dev/shm{name}: cannot create {size} bytes: {why}") from error
        self.fd: int = created.fd
        try:
            os.posix_fallocate(self.fd, 0, size)
        except OSError as error:
            self.remove()
            self.close()
            raise ResourceError(_no_room(name, size, error)) from error

    def remove(self) -> None:
        """Removes the name; mappings and descriptors stay valid."""
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(self.name)

    def close(self) -> None:
        """Closes the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# A fixed size, and a fixed set of seals. Source: fcntl(2).
SEALS_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
F_SEAL_FUTURE_WRITE: Final = 0x0010  # no new writable mapping and no write(2); Linux 5.1


class Memfd:
    """As `Segment`, without a name: it is passed by descriptor and freed with the last one."""

    def __init__(self, name: str, size: int) -> None:
        """Creates and allocates it; its size is sealed by `seal`.

        Args:
            name: what /proc/PID/fd and maps call it; any number may have the same.
            size: bytes.

        Raises:
            ResourceError: out of memory or descriptors.
        """
        self.size = size
        try:
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise refused(f"memfd {name}: cannot create", error, "memfd_create") from error
        try:
            os.posix_fallocate(self.fd, 0, size)
        except OSError as error:
            self.close()
            raise ResourceError(
                f"memfd {name}: cannot allocate {size} bytes: {explain(error) or error.strerror}"
            ) from error

    def seal(self, *, read_only: bool) -> None:
        """Makes its size final.

        Args:
            read_only: no new writable mapping, no write(2); existing mappings stay writable.
        """
        seals = SEALS_SIZE | (F_SEAL_FUTURE_WRITE if read_only else 0)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def remove(self) -> None:
        """Nothing: it has no name."""

    def close(self) -> None:
        """Closes the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _why_not_created(error: Exception, size: int) -> str:
    # posix_ipc makes one ValueError of EFBIG and EINVAL: the size is past a limit of this process,
    # or more than any file can have; its other errors have no number. Source: posix_ipc_module.c.
    if str(error).endswith("the maximum number of files open"):
        return explain(OSError(errno.EMFILE, "")) or str(error)
    if not isinstance(error, ValueError):
        return explain(error) or str(error)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and most < size:
        return explain(OSError(errno.EFBIG, "")) or str(error)
    return str(error)


def _no_room(name: str, size: int, error: OSError) -> str:
    if error.errno != errno.ENOSPC:
        why = explain(error) or error.strerror
        return f"/dev/shm{name}: cannot allocate {size} bytes: {why}"
    st = os.statvfs("/dev/shm")
    return (
        f"/dev/shm is full: {size} bytes are needed and {st.f_bavail * st.f_frsize} are free; "
        "free some, or use fewer channels or smaller batches"
    )
