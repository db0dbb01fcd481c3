"""What a client hands to the service: a descriptor of shared memory, or a name with proof.

A file on tmpfs is opened here and passed on; for everything else the service gets a name, with the
device and inode that it has here.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pagecheck.errors import PeerError, SourceError
from pagecheck.model import is_vm_source, vm_source
from pagecheck.shm import mounts
from pagecheck.shm.ram import RamSource, open_source

if TYPE_CHECKING:
    from pagecheck.model import Format
    from pagecheck.service.replies import Attached
    from pagecheck.service.requests import Requests

NAME_CHARS: Final = 128  # what a service accepts


def passed_on(
    requests: Requests,
    stack: contextlib.ExitStack,
    source: Any,
    arguments: dict[str, Any],
    format: Format,
) -> tuple[list[int], tuple[str, ...]]:
    """Adds to the arguments what the service is to open.

    Returns:
        The descriptors to send instead, and notes on them.
    """
    if isinstance(source, int):
        return [source], ()
    text = os.fspath(source)
    if is_vm_source(text):
        if _named_by_its_member(requests, arguments, text):
            return [], ()
        fd, text = _held_vm(text)
        stack.callback(os.close, fd)
        return _named(requests, arguments, text, os.fstat(fd)), ()
    if (kind := mounts.source_may_stall(text)) is not None:
        raise SourceError(f"{text}: the service opens no file on such a file system ({kind})")
    ram: RamSource = stack.enter_context(open_source(text, format))
    arguments.setdefault("name", _sendable(ram.name))
    if ram.is_shared_memory:
        return [ram.fd], ram.notes
    if text.startswith("fd:"):
        raise SourceError(f"{text}: the service accepts descriptors of shared memory only")
    if format != "auto" and "formats" in requests.greeting["capabilities"]:
        arguments["format"] = format  # a service without them accepts any file
    return _named(requests, arguments, os.path.abspath(text), os.fstat(ram.fd)), ()


def _named(
    requests: Requests, arguments: dict[str, Any], text: str, st: os.stat_result
) -> list[int]:
    """A name means what it means to us: the service compares what it sees under it."""
    if "expect" not in requests.greeting["capabilities"]:
        raise PeerError(
            f"{requests.path}: this service cannot prove that {text} is the same there as here; "
            "start one of this version"
        )
    arguments["source"] = text
    arguments["expect"] = {"device": st.st_dev, "inode": st.st_ino}
    return []


def require_same(found: Attached, offset: int, length: int | None) -> None:
    """Raises PeerError where another part of the file was attached than we asked for."""
    ram = found[0].ram
    if len(found) > 1 or found.unreadable or ram.start != offset or length not in (None, ram.size):
        raise PeerError(
            f"the answer to attach: is of {len(found)} blocks, {ram.size:#x} bytes from "
            f"{ram.start:#x} on; {'all' if length is None else f'{length:#x}'} from {offset:#x} on "
            "were asked for"
        )


def _named_by_its_member(requests: Requests, arguments: dict[str, Any], text: str) -> bool:
    """Names a VM so that the service opens it with our rights, if it can. It cannot with a member
    that only a `source` has."""
    kind, rest = vm_source(text)
    known = f"attach-{kind}" in requests.greeting["capabilities"]
    if not known or arguments.keys() & {"name", "trust_path"}:
        return False
    if kind != "pid":
        path = os.path.abspath(rest)
        os.close(_held(path, text))
        arguments[kind] = path
        return True
    pid, _, name = rest.partition(":")
    if not (pid.isascii() and pid.isdecimal() and len(pid) < 10) or rest.endswith(":"):
        return False
    arguments["pid"] = int(pid)
    if name:
        arguments["name"] = name
    return True


def _held_vm(text: str) -> tuple[int, str]:
    """What the source of a VM leads to, as `_held`; and the source with an absolute path."""
    kind, path = vm_source(text)
    if kind == "pid":
        return _held("/proc/self/ns/pid", text), text
    path = os.path.abspath(path)
    return _held(path, text), f"{kind}:{path}"


def _held(path: str, text: str) -> int:
    """What a path leads to, held so that its numbers are nobody else's meanwhile."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{text}: cannot be seen here: {reason}") from error


def _sendable(name: str) -> str:
    """A file's name as a block's: printable, and not longer than the service accepts."""
    return "".join(c if c.isprintable() else "?" for c in name)[:NAME_CHARS] or "ram"
