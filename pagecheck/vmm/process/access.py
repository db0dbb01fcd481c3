"""Whether a process's memory may be inspected and read, and if not, why and what to do.

Of this process the kernel is asked, and the reason is worked out afterwards; of somebody else's
credentials the kernel's rule is computed (`ptrace_rule.py`) from what /proc says.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from pagecheck.shortage import forbidden
from pagecheck.vmm.process.credentials import (
    PROC,
    Credentials,
    credentials_of,
    has_ended,
    host_of,
    label_of,
    target_of,
)
from pagecheck.vmm.process.ptrace_rule import Refusal, refusal

__all__ = ["Credentials", "Refusal", "credentials_of", "may_inspect", "may_read"]


_ANOTHER: Final = "give the pid of a VM that runs"
_ENDED: Final = Refusal("it has ended", _ANOTHER)


def may_inspect(pid: int, who: Credentials | None = None, proc: str = PROC) -> Refusal | None:
    """Why somebody may not see what a process maps (/proc/PID/maps), which is what shared RAM
    takes.

    Args:
        pid: as `proc` numbers it.
        who: somebody else; None: this process, for which the kernel is asked.
        proc: where /proc is mounted.

    Returns:
        None where they may.
    """
    if who is not None:
        return _computed(pid, who, proc, read=False)
    with contextlib.suppress(OSError):
        _open(f"{proc}/{pid}/maps")
        return None
    return _explained(pid, proc, read=False)


def may_read(pid: int, who: Credentials | None = None, proc: str = PROC) -> Refusal | None:
    """Why somebody may not read a process's memory (process_vm_readv, /proc/PID/pagemap), which is
    what private RAM takes. Arguments and result are those of `may_inspect`."""
    if who is not None:
        return _computed(pid, who, proc, read=True)
    with contextlib.suppress(OSError):
        _open(f"{proc}/{pid}/maps")
        _open(f"{proc}/{pid}/pagemap")
        number = _errno_of_read(pid)
        if number in (0, errno.EFAULT):
            return None
        _open(f"{proc}/{pid}/mem")  # the same rule: only the call itself is forbidden
        why, _, way_out = forbidden("the system call process_vm_readv", number).partition("; ")
        return Refusal(why, way_out)
    return _explained(pid, proc, read=True)


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _errno_of_read(pid: int) -> int:
    """The errno of reading one byte at address 0, where nothing is mapped: EFAULT where memory may
    be read. The access is checked first, and nothing is brought in."""
    import ctypes  # costly, and needed for private RAM alone

    class Piece(ctypes.Structure):
        """struct iovec."""

        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    ours = ctypes.create_string_buffer(1)
    local, remote = Piece(ctypes.addressof(ours), 1), Piece(None, 1)
    call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    call.restype = ctypes.c_ssize_t
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    done = call(pid, ctypes.byref(local), one, ctypes.byref(remote), one, none)
    return ctypes.get_errno() if done < 0 else 0


def _computed(pid: int, who: Credentials, proc: str, *, read: bool) -> Refusal | None:
    try:
        return refusal(target_of(pid, proc), who, host_of(proc), read=read)
    except OSError:
        return _not_shown(pid, proc)


def _explained(pid: int, proc: str, *, read: bool) -> Refusal:
    """The reason, where the kernel refused."""
    try:
        ours = credentials_of("self", proc)._replace(is_own=True)
    except OSError as error:
        return Refusal(f"{proc} does not show pagecheck itself ({error.strerror})", "mount it")
    if has_ended(pid, proc):
        return _ENDED
    return _computed(pid, ours, proc, read=read) or _security_module(pid, proc)


def _not_shown(pid: int, proc: str) -> Refusal:
    """Of a process without a folder that we can read."""
    with contextlib.suppress(ProcessLookupError, OverflowError):
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
        return Refusal(
            f"{proc} hides it (hidepid)",
            f"run pagecheck as root, or in the group that {proc} is mounted with (gid=)",
        )
    return Refusal("there is no such process", _ANOTHER)


def _security_module(pid: int, proc: str) -> Refusal:
    """What is left where the rule itself permits it."""
    its, ours = label_of(f"{proc}/{pid}"), label_of(f"{proc}/self")
    if its or ours:
        return Refusal(
            f"a security module refuses it: its label is {its or 'none'!r}, pagecheck's is "
            f"{ours or 'none'!r}",
            "permit ptrace between them in the AppArmor profile or the SELinux policy",
        )
    return Refusal(
        "the kernel does not show why (Landlock, seccomp, or another user namespace)",
        "run pagecheck as root, outside of the container or sandbox",
    )
