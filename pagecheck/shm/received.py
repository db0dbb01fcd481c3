"""Memory that a peer passed as a descriptor, verified to be what the protocol requires.

Facts: a mapping beyond the end of a file is SIGBUS, so a file that a peer can still shrink kills
the process that maps it; a FIFO or a file of a FUSE file system stalls its reader. Only memfds and
files of tmpfs and hugetlbfs have seals, and a seal cannot be removed. Decision: nothing is read or
mapped before its seals, type and size are verified, and what is read is a copy.
"""

from __future__ import annotations

import fcntl
import os
import stat

from pagecheck.errors import PeerError, ResourceError
from pagecheck.native import _native
from pagecheck.shm.ram import TMPFS
from pagecheck.shm.segments import SEALS_SIZE


def sealed_size(fd: int, what: str) -> int:
    """The size of a memfd, which can no longer change.

    Args:
        what: names it in messages.

    Returns:
        Bytes.

    Raises:
        PeerError: it is not a memfd, or its size is not sealed.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode) or _native.file_system_magic(fd) != TMPFS:
        raise PeerError(f"{what}: is not a memfd of ordinary pages")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise PeerError(f"{what}: has no seals: {error.strerror}") from error
    if seals & SEALS_SIZE != SEALS_SIZE:
        raise PeerError(f"{what}: its size is not sealed (seals {seals:#x})")
    return os.fstat(fd).st_size  # only now is it final


def copy_of(fd: int, offset: int, size: int, what: str) -> memoryview:
    """A part of it as it is now; whatever the peer writes later is not seen.

    Returns:
        Read-only bytes at an address that is a multiple of 8.

    Raises:
        PeerError: the memfd is shorter.
        ResourceError: out of memory.
    """
    try:
        copied = bytearray(size)
    except (MemoryError, OverflowError) as error:
        raise ResourceError(f"{what}: no memory for {size} bytes") from error
    done = 0
    while done < size:
        got = os.preadv(fd, [memoryview(copied)[done:]], offset + done)
        if got == 0:
            raise PeerError(f"{what}: ends after {done} of {size} bytes")
        done += got
    return memoryview(copied).toreadonly()
