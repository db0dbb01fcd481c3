"""What a client names: opened with the service's rights, and the same that the client sees.

Danger: a path, a socket and a process id mean something else in another mount or pid namespace, and
a file of the same name may be another guest's, or a fresh one that is all holes. Decision: a
client that names something sends its device and inode as it sees them, and keeps it open meanwhile;
they belong to one living file only on the file systems that the service opens. A client that sends
none means the service's own namespaces.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import VM_KINDS, vm_source
from pagecheck.service.arguments import Arguments
from pagecheck.shm import mounts
from pagecheck.shm.ram import RamSource, open_source, require_raw

PATH_CHARS: Final = 4096
PID_MAX: Final = (1 << 31) - 1
SOCKET_KINDS: Final = VM_KINDS[1:]  # of VMMs whose socket a client may name
PID_NAMESPACE: Final = "/proc/self/ns/pid"


class Identity(NamedTuple):
    """What a client sees under a name: st_dev and st_ino of the file, of a VMM's socket, and for
    `pid:` of its own pid namespace."""

    device: int
    inode: int


def expected_identity(arguments: Arguments) -> Identity | None:
    """The member `expect`, or None.

    Raises:
        UsageError: it is invalid.
    """
    one = arguments.inner("expect")
    if one is None:
        return None
    found = Identity(
        one.integer("device", 0, (1 << 64) - 1), one.integer("inode", 0, (1 << 64) - 1)
    )
    one.done()
    return found


class Named(NamedTuple):
    """A VM as a client named it: not a text of the service's, but of the client's namespaces.

    Attributes:
        kind: what a source of it begins with.
        source: as `open_vm` takes it.
    """

    kind: str
    source: str


def named_vm(arguments: Arguments, name: str | None) -> Named | None:
    """The member `pid`, or that of a VMM's socket; None where there is none.

    Args:
        name: of the block that alone is meant; for a process only.

    Raises:
        UsageError: it is invalid, or there are several.
    """
    found: list[Named] = []
    pid = arguments.integer("pid", 1, PID_MAX, None)
    if pid is not None:
        found.append(Named("pid", f"pid:{pid}" if name is None else f"pid:{pid}:{name}"))
    for kind in SOCKET_KINDS:
        path = arguments.text(kind, None, chars=PATH_CHARS)
        if path is None:
            continue
        _require_absolute(kind, path)
        found.append(Named(kind, f"{kind}:{path}"))
    if len(found) > 1:
        raise UsageError(f"{', '.join(each.kind for each in found)}: exclude each other")
    return found[0] if found else None


def _require_absolute(member: str, path: str) -> None:
    if not os.path.isabs(path):
        raise UsageError(f"{member}: {path!r} is not an absolute path")


def require_steady(source: str) -> None:
    """Raises SourceError, without opening it, where a path, or a file that a process shares, is
    on a file system that could stall us for ever."""
    if mounts.source_may_stall(source) is not None:
        raise _may_stall(source)


def _may_stall(source: str) -> SourceError:
    return SourceError(
        f"{source}: on a file system that is not tmpfs, hugetlbfs, ext4, xfs or btrfs; the "
        "service does not open it"
    )


def require_same_vm(source: str, expected: Identity | None) -> None:
    """Raises SourceError where the source of a VM means another one to us than to the client."""
    if expected is None:
        return
    kind, path = vm_source(source)
    by_process = kind == "pid"
    try:
        st = os.stat(PID_NAMESPACE if by_process else path)
    except OSError as error:
        raise SourceError(f"{source}: the service does not see it: {error.strerror}") from error
    if (st.st_dev, st.st_ino) != expected:
        raise elsewhere(source, kind)


def elsewhere(source: str, kind: str) -> SourceError:
    """What to raise where a process or a socket is another one to the service than to the client.

    Args:
        kind: what the source begins with.
    """
    what = "process: it is in another pid" if kind == "pid" else "socket: it is in another mount"
    return SourceError(
        f"{source}: is for the service another {what} namespace; start a service in yours, or "
        "scan without it"
    )


def open_named(source: str, name: str | None, expected: Identity | None, form: str) -> RamSource:
    """Opens a path or shared-memory name.

    Args:
        name: the block's; None: the file's.
        form: `auto` or `raw`, as in `shm.ram.open_source`.

    Raises:
        UsageError: it is not a name that the service can open.
        SourceError: it is on a file system that could stall a worker for ever, or is another file
            than the client's, or not raw RAM.
    """
    if source.startswith("fd:"):
        raise UsageError("source: a descriptor of the service cannot be named")
    if not source.startswith("shm:"):
        _require_absolute("source", source)
    require_steady(source)
    ram = open_source(source, "raw")  # it is read only where that cannot stall
    try:
        if not ram.is_known_file_system:
            raise _may_stall(source)
        st = os.fstat(ram.fd)
        if expected is not None and (st.st_dev, st.st_ino) != expected:
            raise SourceError(
                f"{source}: is for the service another file: it was replaced, or the service is in "
                "another mount namespace; pass a file on tmpfs on, or scan without the service"
            )
        if form == "auto":
            require_raw(ram)
    except BaseException:
        ram.close()
        raise
    if name is not None:
        ram.name = name
    return ram
