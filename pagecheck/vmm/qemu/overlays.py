"""External snapshots of all writable disks of a VM at one moment.

Facts: an overlay becomes the top of a disk by `blockdev-snapshot`, and several at once by
`transaction`; from then on the file below is not written. To make a file may take long or fail.
Danger: a VM that is stopped for so long, or that goes on with some of its disks; a file that is
overwritten: QEMU truncates one that is there. Decision: files are made and opened by QEMU before
the VM is stopped, under names that nobody else chooses, and only the one transaction happens while
it is; what was prepared and is not used is removed again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import Any, Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import PagecheckError, PeerError, SourceError
from pagecheck.printable import printable
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.qemu.asking import asked
from pagecheck.vmm.qemu.disks import Disk, disk_values, written_at

CREATE_S: Final = 30.0
_WAIT_S: Final = 0.005
_WHY_CHARS: Final = 200

# Nodes that only change requests: an overlay above would take them out of the way.
_FILTERS: Final = frozenset(
    {"throttle", "copy-on-read", "blkdebug", "blkverify", "blklogwrites", "blkreplay", "quorum"}
)


class _Overlay(NamedTuple):
    """One that is prepared.

    Attributes:
        disk: what is below.
        path: its file.
        node, storage: QEMU's names of it and of its file.
    """

    disk: Disk
    path: str
    node: str
    storage: str


class Overlays:
    """Overlays for disks; a context manager."""

    def __init__(self, monitor: QemuMonitor, disks: list[Disk], folder: str | None = None) -> None:
        """Makes them; the VM may run, and does not use them yet.

        Args:
            disks: at least one.
            folder: where their files are made, as QEMU sees it; None: beside each disk.

        Raises:
            SourceError: one cannot be had, or a block job is at work on the disks.
            PeerError: QEMU does not answer.
        """
        self._monitor = monitor
        self._token = secrets.token_hex(4)
        self._made: list[_Overlay] = []
        self._used = False
        self._written: list[int | None] = []
        _require_no_job(monitor)
        planned = [self._plan(number, each, folder) for number, each in enumerate(disks)]
        try:
            for each in planned:
                self._make(each)
        except BaseException:
            self.close()
            raise

    def use(self) -> None:
        """All disks are continued in their overlays; the VM is stopped.

        Raises:
            PeerError: QEMU refused it: none is; or it does not answer.
        """
        self._used = True  # from before it is asked: an overlay in use is never removed
        actions = [
            {"type": "blockdev-snapshot", "data": {"node": each.disk.node, "overlay": each.node}}
            for each in self._made
        ]
        try:
            self._monitor.execute("transaction", actions=actions)
        except PeerError:
            with contextlib.suppress(PagecheckError):  # not known: they may be
                self._used = self._are_in_use()
            raise
        self._written = written_at([each.disk for each in self._made])

    def values(self) -> list[dict[str, Any]]:
        """What a manifest keeps of each disk, once they are used."""
        return [
            disk_values(each.disk, "overlay", written, each.path)
            for each, written in zip(self._made, self._written, strict=True)
        ]

    def describe(self) -> str:
        """What became of the disks, on one line, for a user whose save failed; empty where they are
        as they were."""
        if not self._used:
            return ""
        return "; ".join(
            f"disk {each.disk.device} goes on in {each.path} above {each.disk.file}: keep both, or "
            "merge them with block-commit"
            for each in self._made
        )

    def close(self) -> None:
        """Removes what is not used. May be called twice."""
        if not self._used:
            made, self._made = self._made, []
            for each in made:
                self._remove(each)

    def _are_in_use(self) -> bool:
        ours = {each.node for each in self._made}
        media = (each.optional("inserted") for each in asked(self._monitor, "query-block").items())
        return any(each.member("node-name").text() in ours for each in media if each is not None)

    def _plan(self, number: int, disk: Disk, folder: str | None) -> _Overlay:
        name = self._monitor.name
        if disk.format in _FILTERS:
            raise SourceError(
                f"{name}: disk {disk.device} is behind a {disk.format} node, which an overlay "
                "would take out of its way; save it with --then quit, or --disks none"
            )
        if folder is None and not os.path.isfile(disk.path):
            raise SourceError(
                f"{name}: disk {disk.device} ({printable(disk.file, _WHY_CHARS)}) is not a file "
                "that can be seen from here, so that no overlay can be made beside it; save it "
                "with --then quit, or --disks none"
            )
        base = os.path.basename(disk.path) or f"disk{number}"
        beside = os.path.dirname(disk.path) if folder is None else os.path.abspath(folder)
        path = f"{beside}/{base}.pagecheck-{self._token}.qcow2"
        node = f"pagecheck-{self._token}-{number}"
        return _Overlay(disk, path, node, f"{node}f")

    def _make(self, each: _Overlay) -> None:
        disk = each.disk
        if os.path.lexists(each.path):
            raise SourceError(f"{self._monitor.name}: {each.path} is there already; try again")
        below = {"driver": "file", "filename": each.path}
        cache = {"direct": disk.direct, "no-flush": disk.no_flush}
        try:
            self._made.append(each)  # an interrupt may come once the file is there
            self._create({**below, "size": 0})
            with contextlib.suppress(OSError):  # QEMU's umask would let others read the disk
                _set_mode(each.path, os.stat(disk.path).st_mode & 0o777)
            self._add({**below, "node-name": each.storage, "cache": cache})
            self._create(
                {
                    "driver": "qcow2",
                    "file": each.storage,
                    "size": disk.size,
                    "backing-file": disk.file,
                    "backing-fmt": disk.format,
                }
            )
            overlay = {"driver": "qcow2", "file": each.storage, "backing": None, "cache": cache}
            self._add({**overlay, "node-name": each.node})
        except PeerError as error:
            raise SourceError(
                f"{self._monitor.name}: no overlay for disk {disk.device} at {each.path}: {error}; "
                "where QEMU may not make files (libvirt, another mount namespace), save it with "
                "--then quit, or --disks none"
            ) from error

    def _add(self, options: dict[str, Any]) -> None:
        self._monitor.execute("blockdev-add", **options)

    def _create(self, options: dict[str, Any]) -> None:
        job = f"pagecheck-{self._token}"
        arguments: dict[str, Any] = {"job-id": job, "options": options}
        self._monitor.execute("blockdev-create", **arguments)
        until = clock.now_s() + CREATE_S
        try:
            while (why := self._ended(job)) is None:
                if clock.now_s() > until:
                    raise PeerError(f"QEMU made no file in {CREATE_S:.0f} s")
                clock.sleep_s(_WAIT_S)
        finally:
            with contextlib.suppress(PagecheckError):  # it has not ended, or QEMU has
                self._monitor.execute("job-dismiss", id=job)
        if why:
            raise PeerError(why)

    def _ended(self, name: str) -> str | None:
        """How a job ended: empty, or why it failed; None where it has not."""
        for job in asked(self._monitor, "query-jobs").items():
            if job.member("id").text() == name:
                if job.member("status").text() != "concluded":
                    return None
                error = job.optional("error")
                return "" if error is None else printable(error.text(), _WHY_CHARS)
        raise PeerError("QEMU lost the job that makes the file")

    def _remove(self, each: _Overlay) -> None:
        for node in (each.node, each.storage):
            arguments: dict[str, Any] = {"node-name": node}
            with contextlib.suppress(PagecheckError):  # it was not added, or QEMU ended
                self._monitor.execute("blockdev-del", **arguments)
        with contextlib.suppress(OSError):  # not seen from here
            os.unlink(each.path)

    def __enter__(self) -> Overlays:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _set_mode(path: str, mode: int) -> None:
    """Of a file that QEMU has just made, and no other: whoever QEMU is may have put a link there,
    and we may be root.

    Raises:
        OSError: it cannot be opened, or changed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and not found.st_size:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _require_no_job(monitor: QemuMonitor) -> None:
    for job in asked(monitor, "query-block-jobs").items():
        kind, device = job.member("type").text(), job.member("device").text()
        raise SourceError(
            f"{monitor.name}: a block job ({kind[:20]} {device[:40]}) is at work on its disks; "
            "wait for its end, or end it with block-job-cancel"
        )
