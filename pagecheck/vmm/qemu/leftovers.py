"""What a killed save has left in QEMU of overlays that no disk was continued in: nodes, files, and
the ended jobs that made them.

Danger: an overlay that was in use holds what the guest wrote, also when its disk was unplugged
since. Decision: one is removed only if QEMU opened it without the file below, which its header
names: in use it has that file, and one that was made complete (block-stream) names none any more.
Of one that was not opened yet, or is not any more, the file is removed only if it holds nothing;
where QEMU does not have even the file open, only if it is empty, since another QEMU may have it.
Danger: what answers as QEMU names files of others, and we may be root. Decision: only what the user
of that process owns is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pagecheck.errors import PeerError
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.credentials import credentials_of
from pagecheck.vmm.qemu.asking import asked

_JOB: Final = re.compile(r"pagecheck-[0-9a-f]{8}")
_NODE: Final = re.compile(r"pagecheck-([0-9a-f]{8})-\d+")
_FILE: Final = re.compile(r"\.pagecheck-[0-9a-f]{8}\.qcow2")
_EMPTY_BYTES: Final = 1 << 20  # more than the tables of an overlay without data
_HEADER_BYTES: Final = 72  # of a qcow2 file, version 2 and later
_L1_BYTES_MAX: Final = 32 << 20  # QEMU opens no larger one


def remove_leftovers(monitor: QemuMonitor, disks: Iterable[str]) -> None:
    """Removes what was prepared and never used.

    Args:
        disks: paths of the disks that overlays may have been made beside; empty ones are skipped.

    Raises:
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    for job in asked(monitor, "query-jobs").items():
        name = job.member("id").text()
        if _JOB.fullmatch(name) and job.member("status").text() == "concluded":
            with contextlib.suppress(PeerError):
                monitor.execute("job-dismiss", id=name)
    owner = _owner_of_files(monitor)
    unused, files = [], {}
    for node in asked(monitor, "query-named-block-nodes").items():
        name, image = node.member("node-name").text(), node.member("image")
        files[name] = node.member("file").text()
        depth, size = node.optional("backing_file_depth"), image.optional("actual-size")
        if (
            _NODE.fullmatch(name)
            and (depth is not None and not depth.size())
            and (size is not None and size.size() <= _EMPTY_BYTES)
            and image.optional("backing-filename") is not None
        ):
            unused.append(name)
    unused += [name for name in _not_opened(files) if _holds_nothing(files[f"{name}f"])]
    for name in unused:
        with contextlib.suppress(PeerError, OSError):  # it is in use all the same
            if name in files:
                _delete(monitor, name)
            _delete(monitor, f"{name}f")
            path, token = files.get(f"{name}f", ""), name.split("-")[1]
            if path.startswith("/") and path.endswith(f".pagecheck-{token}.qcow2"):
                _remove_file(path, owner)
    _remove_empty_files(disks, set(files.values()), owner)


def _owner_of_files(monitor: QemuMonitor) -> int:
    """Whose the files are that QEMU makes."""
    if monitor.peer_pid <= 0:
        return os.geteuid()
    try:
        return credentials_of(monitor.peer_pid).uids[-1]  # the one that counts for files
    except OSError:  # it has ended
        return os.geteuid()


def _remove_file(path: str, owner: int, *, only_empty: bool = False) -> None:
    """Removes a regular file of that user.

    Raises:
        OSError: it cannot be removed.
    """
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_theirs = stat.S_ISREG(found.st_mode) and found.st_uid == owner
        if is_theirs and not (only_empty and found.st_size):
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def _not_opened(files: Mapping[str, str]) -> list[str]:
    """Names of overlays of which only the file is open."""
    names = [node.removesuffix("f") for node in files if node.endswith("f")]
    return [name for name in names if _NODE.fullmatch(name) and name not in files]


def _holds_nothing(path: str) -> bool:
    """Whether a file is empty, or a qcow2 image without data of its own.

    Source: docs/interop/qcow2.txt: every cluster with data is reached from the L1 table.
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size < _HEADER_BYTES:
                return stat.S_ISREG(status.st_mode) and status.st_size == 0
            header = os.pread(fd, _HEADER_BYTES, 0)
            length = 8 * int.from_bytes(header[36:40])
            if length > _L1_BYTES_MAX:
                return False
            table = os.pread(fd, length, int.from_bytes(header[40:48]))
            has_snapshots = any(header[60:64])
            is_whole = header.startswith(b"QFI\xfb") and len(table) == length
            return is_whole and not has_snapshots and not any(table)
        finally:
            os.close(fd)
    return False


def _remove_empty_files(disks: Iterable[str], used: set[str], owner: int) -> None:
    """Removes files that were made for overlays, and nothing more."""
    for disk in filter(None, disks):
        folder, base = os.path.split(disk)
        with contextlib.suppress(OSError):  # not seen from here
            for name in os.listdir(folder):
                if name.startswith(base) and _FILE.fullmatch(name[len(base) :]):
                    path = os.path.join(folder, name)
                    if path not in used:
                        _remove_file(path, owner, only_empty=True)


def _delete(monitor: QemuMonitor, node: str) -> None:
    arguments: dict[str, Any] = {"node-name": node}
    monitor.execute("blockdev-del", **arguments)
