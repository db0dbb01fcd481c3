"""Another process's memory: its mappings, and the files behind them, opened read-only.

Danger: a process id can be given to another process at any moment. Decision: a pidfd is opened
first, every file is known by its device and inode, and `verify` says at the end that the process
that the pidfd stands for was there all the time, so that what /proc showed was its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from pagecheck.errors import SourceError

F_GET_SEALS: Final = 1034  # Source: linux/fcntl.h; Python has no name for it before 3.12
SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture
DELETED: Final = " (deleted)"

_LINE: Final = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)"
)


class Mapping(NamedTuple):
    """One line of /proc/PID/maps.

    Attributes:
        start: address of its first byte.
        end: address after its last byte.
        perms: such as "rw-s".
        offset: byte offset in the file.
        dev: device of the file, as in st_dev.
        inode: 0 for anonymous memory.
        path: as the kernel shows it, without the mark of a deleted file.
        deleted: whether the file has no name any more.
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: int
    inode: int
    path: str
    deleted: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def is_shared(self) -> bool:
        """Whether stores go to the file, and not to a private copy."""
        return self.perms[3] == "s"

    @property
    def is_writable(self) -> bool:
        """Whether the process may read and write it."""
        return self.perms.startswith("rw")


def parse_maps(text: str) -> list[Mapping]:
    """Reads the text of /proc/PID/maps.

    Raises:
        SourceError: a line is none of that file.

    Source: show_map_vma() in fs/proc/task_mmu.c; a line break in a path is shown as \\012.
    """
    found = []
    for line in text.split("\n"):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SourceError(f"/proc/PID/maps: not a mapping: {line[:80]!r}")
        start, end, perms, offset, major, minor, inode, shown = match.groups()
        dev = os.makedev(int(major, 16), int(minor, 16))
        path = shown.removesuffix(DELETED)
        found.append(
            Mapping(
                start=int(start, 16),
                end=int(end, 16),
                perms=perms,
                offset=int(offset, 16),
                dev=dev,
                inode=int(inode),
                path=path.replace("\\012", "\n"),
                deleted=path != shown,
            )
        )
    return found


class OpenFile(NamedTuple):
    """A file behind a mapping.

    Attributes:
        fd: the descriptor; whoever has this value closes it.
        own_description: False when the open file description is the other process's too.
    """

    fd: int
    own_description: bool


class ProcessMemory:
    """One process, held by a pidfd, and what it maps."""

    def __init__(self, pid: int) -> None:
        """Takes hold of the process.

        Raises:
            SourceError: there is no such process.
        """
        self.pid = pid
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ESRCH, errno.EINVAL):
                raise SourceError(f"process {pid}: cannot be held: {error.strerror}") from error
            raise SourceError(f"process {pid}: no such process; give the VMM's pid") from error

    def mappings(self) -> list[Mapping]:
        """What it maps now, in order of address.

        Raises:
            SourceError: its maps may not be read, or it ended.
        """
        try:
            with open(f"/proc/{self.pid}/maps", "rb") as file:
                text = os.fsdecode(file.read())
        except OSError as error:
            raise self._refused(error, "its memory map cannot be read") from error
        self.verify()
        if not text:
            raise SourceError(f"process {self.pid}: maps no memory; it is ending or no VMM")
        return parse_maps(text)

    def comm(self) -> str:
        """The name of its program, at most 15 characters; empty where it cannot be read."""
        try:
            with open(f"/proc/{self.pid}/comm", "rb") as file:
                return os.fsdecode(file.read()).strip()
        except OSError:
            return ""

    def open_file(self, mapping: Mapping) -> OpenFile | None:
        """Opens the file behind a mapping, read-only.

        Returns:
            The open file; None where it is no regular file, but a device.

        Raises:
            SourceError: no way leads to it.
        """
        try:
            return self._open_file(mapping)
        except _NoFile:
            return None

    def _open_file(self, mapping: Mapping) -> OpenFile:
        refusal: OSError | None = None
        number: int | None = None
        try:
            number = self._number_of(mapping)
        except OSError as error:
            refusal = error
        for link in self._links(mapping, number):
            try:
                return OpenFile(self._open_link(link, mapping), own_description=True)
            except OSError as error:
                refusal = refusal or error
        if number is not None:
            try:
                return self._copy(number, mapping)
            except OSError as error:
                refusal = refusal or error
        refusal = refusal or FileNotFoundError(errno.ENOENT, "it is open nowhere")
        what = f"the file behind {_named(mapping)} cannot be opened"
        raise self._refused(refusal, what) from refusal

    def verify(self) -> None:
        """Proves that what /proc showed until now was this process's.

        Raises:
            SourceError: it ended.
        """
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(0):
            raise SourceError(f"process {self.pid}: ended while it was looked at")

    def close(self) -> None:
        """Lets go of the process."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _number_of(self, mapping: Mapping) -> int | None:
        """The process's own descriptor of the mapping's file, if it has kept one."""
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed since
                if _is_behind(os.stat(f"/proc/{self.pid}/fd/{name}"), mapping):
                    return int(name)
        return None

    def _links(self, mapping: Mapping, number: int | None) -> Iterator[str]:
        if number is not None:
            yield f"/proc/{self.pid}/fd/{number}"
        # Root's way to a file whose descriptors are all closed.
        yield f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        if not mapping.deleted and mapping.path.startswith("/"):
            yield f"/proc/{self.pid}/root{mapping.path}"

    def _open_link(self, link: str, mapping: Mapping) -> int:
        # Looked at before it is opened: opening a device may do something.
        if not _is_behind(os.stat(link), mapping):
            raise FileNotFoundError(errno.ENOENT, "it was exchanged")
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        return _kept_if_behind(fd, mapping)

    def _copy(self, number: int, mapping: Mapping) -> OpenFile:
        """Takes a copy of the descriptor out of the process: the inode's mode, which may be 0,
        plays no part in that, but the process must allow to be traced."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd: int = libc.syscall(SYS_PIDFD_GETFD, self._pidfd, number, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        fd = _kept_if_behind(fd, mapping)
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return OpenFile(fd, own_description=False)
        os.close(fd)
        return OpenFile(own, own_description=True)

    def _refused(self, error: OSError, what: str) -> SourceError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return SourceError(
                f"process {self.pid}: {what}: not permitted; run pagecheck as the same user or as "
                "root, with the right to trace it (CAP_SYS_PTRACE)"
            )
        if error.errno in (errno.ENOENT, errno.ESRCH):
            with contextlib.suppress(OSError):
                os.stat(f"/proc/{self.pid}/maps")
                return SourceError(f"process {self.pid}: {what}: {error.strerror}")
            return SourceError(f"process {self.pid}: ended, or /proc hides it")
        return SourceError(f"process {self.pid}: {what}: {error.strerror}")


def is_shared_memory(fd: int) -> bool:
    """Whether it is a file of tmpfs, memfd or hugetlbfs: the kinds that have seals."""
    try:
        fcntl.fcntl(fd, F_GET_SEALS)
    except OSError:
        return False
    return True


class _NoFile(Exception):
    """What is mapped is no regular file."""


def _is_behind(st: os.stat_result, mapping: Mapping) -> bool:
    if (st.st_dev, st.st_ino) != (mapping.dev, mapping.inode):
        return False
    if not stat.S_ISREG(st.st_mode):
        raise _NoFile
    return True


def _kept_if_behind(fd: int, mapping: Mapping) -> int:
    try:
        if _is_behind(os.fstat(fd), mapping):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "it was exchanged")


def _named(mapping: Mapping) -> str:
    return mapping.path or f"the mapping at {mapping.start:#x}"
