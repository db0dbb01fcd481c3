"""A worker that writes in the place of another user: with no right of root's over a file system.

Facts: whoever has a file open may write to it, but how much is a matter of who writes: root
exceeds quotas, uses space that is kept for it, and leaves a set-user-ID bit as it is. The kernel
goes by the file system's user id and the effective capabilities of the thread. Decision: both are
changed, once, before the first write; what a worker needs to read another process's memory stays.

Source: ignore_hardlimit() in fs/quota/dquot.c, ext4_has_free_clusters() in fs/ext4/balloc.c,
cap_task_fix_setuid() in security/commoncap.c.
"""

from __future__ import annotations

import ctypes
import os

from pagecheck.errors import EngineError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

CAP_SYS_RESOURCE: Final = 24
_VERSION: Final = 0x20080522  # of the two structures. Source: linux/capability.h


def write_as(uid: int, gid: int) -> None:
    """From now on files are written by this thread as by that user.

    Raises:
        EngineError: this process may not do so.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # They answer with the id before.
    libc.setfsuid.restype = libc.setfsgid.restype = ctypes.c_uint32
    libc.setfsgid(gid)
    libc.setfsuid(uid)  # which takes the capabilities over files away, too
    if libc.setfsuid(-1) != uid or libc.setfsgid(-1) != gid:
        raise EngineError(
            f"cannot write as user {uid} and group {gid}; the service needs CAP_SETUID and "
            "CAP_SETGID for it"
        )
    head = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; of 32 capabilities each
    if libc.capget(head, sets) == 0:
        sets[0] &= ~(1 << CAP_SYS_RESOURCE)
        if libc.capset(head, sets) == 0:
            return
    why = os.strerror(ctypes.get_errno())
    raise EngineError(f"cannot write without CAP_SYS_RESOURCE: {why}")
