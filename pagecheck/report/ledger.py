"""Which files in a folder of results are its own: `report.json` lists every file that was written
there with its size and digest, and has a digest of its own.

A file that is not listed, or differs from the list (because it was changed since, or never was
ours), is foreign, and is not modified.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

REPORT: Final = "report.json"
UNFINISHED: Final = ".pagecheck-unfinished-"  # prefix of the list of files that are being written
REPORT_BYTES_MAX: Final = 64 << 20
_PART_BYTES: Final = 1 << 20


class Entry(NamedTuple):
    """A file that was written: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str


def entry_of(data: bytes | memoryview) -> Entry:
    """The entry of a file with these bytes."""
    view = memoryview(data).cast("B")
    return Entry(len(view), hashlib.sha256(view).hexdigest())


Files = dict[str, set[Entry]]  # valid contents by name: one, or the old and the new


def sealed(document: dict[str, Any], files: Files) -> bytes:
    """The text of a report with its list.

    Args:
        document: the report; gets the member `written`.
    """
    shown = {name: [_shown(each) for each in sorted(several)] for name, several in files.items()}
    one_or_more = {name: each[0] if len(each) == 1 else each for name, each in shown.items()}
    document = {**document, "written": {"files": one_or_more}}
    document["written"]["sha256"] = _digest(document)
    return (json.dumps(document, indent=2) + "\n").encode()


def _shown(entry: Entry) -> dict[str, Any]:
    return {"bytes": entry.size, "sha256": entry.sha256}


def listed(text: bytes) -> Files | None:
    """The list in a report; None where it is not ours, or was changed."""
    try:
        document = json.loads(text)
        written = document["written"]
        digest = written.pop("sha256")
        if digest != _digest(document):
            return None
        return {
            name: {
                Entry(int(each["bytes"]), str(each["sha256"]))
                for each in (several if isinstance(several, list) else [several])
            }
            for name, several in written["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def read_regular(folder: int, name: str, most: int) -> bytes | None:
    """A regular file's bytes; None where there is no file of that name and size, or it cannot be
    read."""
    parts = _parts(folder, name, 0, most)
    return None if parts is None else b"".join(parts)


def is_as_listed(folder: int, name: str, entries: Collection[Entry]) -> bool:
    """Whether a file is, byte for byte, one of those that were written."""
    sizes = {each.size for each in entries}
    parts = _parts(folder, name, min(sizes), max(sizes)) if sizes else None
    if parts is None:
        return False
    digest, size = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        size += len(part)
    return Entry(size, digest.hexdigest()) in entries


def _parts(folder: int, name: str, least: int, most: int) -> Iterator[bytes] | None:
    """A regular file with a size in the range, in chunks; None where there is none."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or not least <= st.st_size <= most:
        os.close(fd)
        return None
    return _read(fd)


def _read(fd: int) -> Iterator[bytes]:
    try:
        while part := os.read(fd, _PART_BYTES):
            yield part
    finally:
        os.close(fd)
