"""Resource shortages: which limit was reached and how to raise it, or which system call is
forbidden here."""

from __future__ import annotations

import errno
import os
import resource
import sys

from pagecheck.errors import EngineError, PagecheckError, ResourceError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

CGROUPS: Final = "/sys/fs/cgroup"
FEWER: Final = "or use fewer channels"

_SHORTAGES: Final = (
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.ENOMEM,
    errno.EFBIG,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOBUFS,
    errno.ETOOMANYREFS,
)
_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_NO_THREAD: Final = "can't start new thread"  # Source: Modules/_threadmodule.c


def refused(doing: str, error: BaseException, call: str | None = None) -> PagecheckError:
    """What to raise where the host refused something that pagecheck needs.

    Args:
        doing: the operation that failed, such as "channel 3: cannot start a worker".
        call: the system call that failed, where exactly one could have.

    Returns:
        ResourceError for a shortage; EngineError for what is not available here at all.
    """
    number = errno_of(error)
    why = explain(error)
    if why is not None:
        return ResourceError(f"{doing}: {why}")
    if call is not None and number in _FORBIDDEN:
        return EngineError(f"{doing}: {forbidden(f'the system call {call}', number)}")
    return EngineError(f"{doing}: {os.strerror(number) if number else error}")


def no_process(doing: str, error: OSError, call: str) -> PagecheckError:
    """What to raise where a Python of ours cannot be started; arguments as of `refused`."""
    if error.errno in (errno.EACCES, errno.ENOENT) and not os.access(sys.executable, os.X_OK):
        return EngineError(
            f"{doing}: {sys.executable}, or a folder that leads to it, is not there or not "
            f"executable for uid {os.geteuid()}; install pagecheck where that user may run it"
        )
    return refused(doing, error, call)


def no_thread(purpose: str, error: RuntimeError) -> PagecheckError:
    """What to raise where a thread cannot be started."""
    return refused(f"cannot start a thread for {purpose}", error)


def forbidden(what: str, number: int) -> str:
    """The message about a system call that the host forbids, and the remedy."""
    return (
        f"{what} is forbidden or not known here: {os.strerror(number)}; allow it in the seccomp "
        "profile (of the container or the service), or use a newer container runtime or kernel"
    )


def is_forbidden(error: BaseException) -> bool:
    """Whether an unexpected error that names no file is a forbidden system call."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _FORBIDDEN


def is_limit(error: BaseException) -> bool:
    """Whether the error is a limit of this process or host, not a fault of a file."""
    return errno_of(error) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def explain(error: BaseException) -> str | None:
    """The limit that was reached and how to raise it; None where the error is not a shortage."""
    number = errno_of(error)
    if number == errno.EMFILE:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may have {most} open files; raise that (ulimit -n), {FEWER}"
    if number == errno.ENFILE:
        return f"the host is out of open files (fs.file-max); raise that, {FEWER}"
    if number == errno.EAGAIN:
        return f"no more processes or threads may be started: {_tasks()}; raise that, {FEWER}"
    if number == errno.ENOMEM:
        return f"out of memory: free some, raise the limit (ulimit -v, the cgroup's), {FEWER}"
    if number == errno.EFBIG:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if most == resource.RLIM_INFINITY:
            return "the file would be larger than its file system allows"
        return f"this process may write files of up to {most} bytes; raise that (ulimit -f)"
    if number == errno.ETOOMANYREFS:  # Source: too_many_unix_fds() in net/core/scm.c
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"more than {most} descriptors that this user's processes sent wait to be received; "
            "raise that (ulimit -n)"
        )
    return os.strerror(number) if number in _SHORTAGES else None


def errno_of(error: BaseException) -> int:
    """The error number of an OSError, or of the errors that stand for one; 0: none is known."""
    if isinstance(error, OSError):
        return error.errno or 0
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return errno.EAGAIN
    if isinstance(error, ImportError):  # a library that cannot be opened; Source: dlopen(3)
        text = str(error)
        if text.endswith("failed to map segment from shared object"):
            return errno.ENOMEM
        return next((each for each in _SHORTAGES if text.endswith(os.strerror(each))), 0)
    return 0


def _tasks() -> str:
    """Which of the limits on processes and threads it was."""
    full = _full_cgroup()
    if full is not None:
        return full
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most != resource.RLIM_INFINITY and os.geteuid() != 0:
        return f"this user may have {most} (ulimit -u)"
    return (
        "a limit of the cgroup (pids.max, TasksMax=, --pids-limit), of the user or of the host, or "
        "a seccomp profile that forbids clone3"
    )


def _full_cgroup(membership: str = "/proc/self/cgroup", root: str = CGROUPS) -> str | None:
    """The cgroup whose pids.max is reached, with the number; the one next to us first."""
    for folder in cgroups("pids", membership, root):
        try:
            with open(f"{folder}/pids.max", encoding="ascii") as file:
                most = file.read().strip()
            with open(f"{folder}/pids.current", encoding="ascii") as file:
                there = int(file.read())
        except (OSError, ValueError):
            continue
        if most.isdigit() and there + 1 >= int(most):
            return (
                f"the cgroup allows {most} ({folder}/pids.max; systemd's TasksMax=, a "
                "container's --pids-limit)"
            )
    return None


def cgroups(
    controller: str, membership: str = "/proc/self/cgroup", root: str = CGROUPS
) -> list[str]:
    """Folders of this process's cgroup and of those above it; in a container the path may not
    exist below the mount, then the mount itself is the container's cgroup.

    Args:
        controller: such as "pids", for hosts where each has a hierarchy of its own.
        membership: the file that says which cgroup it is.
        root: where the hierarchies are mounted.
    """
    try:
        with open(membership, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mount = f"{root}/{controller}" if controllers else root
        parts = [part for part in path.split("/") if part not in ("", "..")]
        found += ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return found
