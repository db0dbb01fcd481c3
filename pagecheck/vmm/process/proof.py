"""The file behind another process's mapping: opened read-only, and proved to be that very file.

Facts: a path is a name, which may lead elsewhere since, or in another mount namespace. The device
and inode in /proc/PID/maps are those of a file that lives as long as the mapping; among the living
files of tmpfs, hugetlbfs, ext4 and xfs they belong to one only. On btrfs the device is that of all
subvolumes together, whose inode numbers repeat (a snapshot has all of them again), on overlayfs and
FUSE they are whatever comes from below. A file of overlayfs that is mapped read-only stays the
lower one when it is copied up, and whoever opens it then gets the upper one. /proc/PID/map_files
leads to the file itself, whatever its numbers and names, and needs CAP_CHECKPOINT_RESTORE or
CAP_SYS_ADMIN.
Danger: another file reads as other pages, and a fresh one as zeros. Decision: map_files first; else
a descriptor or path of the process's whose file has the device and inode of the mapping, where they
belong to one file only; else nothing. The caller reads the maps once more at the end: the mapping
was there all the time, and what was opened meanwhile is its file.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from pagecheck.native import _native
from pagecheck.shm.mounts import of_device, read
from pagecheck.shm.ram import DISK, HUGETLBFS, TMPFS
from pagecheck.vmm.process.maps import DELETED, Mapping, parse_maps

OVERLAYFS: Final = 0x794C7630  # Source: linux/magic.h
MAP_NORESERVE: Final = 0x4000  # Source: linux/mman.h; Python has no name for it before 3.13
SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture

# Living files of one super block have different inode numbers there.
_ONE_NUMBER: Final = {TMPFS, HUGETLBFS, *(magic for magic, name in DISK.items() if name != "btrfs")}
_ONE_NUMBER_TYPES: Final = {"tmpfs", "hugetlbfs", "ext2", "ext3", "ext4", "xfs"}

# Without a block device below, these are the kernel's own. Anything else asks another process or
# host for a read: it may answer late, or with other bytes than those that are mapped.
_OF_THE_KERNEL: Final = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "btrfs", "overlay", "zfs"}

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_INODE: Final = re.compile(rb"^ino:\t(\d+)$", re.MULTILINE)  # since Linux 5.14


class OpenFile(NamedTuple):
    """A file behind a mapping.

    Attributes:
        fd: the descriptor; whoever has this value closes it.
        own_description: False when the open file description is the other process's too.
    """

    fd: int
    own_description: bool


class NoFile(Exception):
    """What is mapped is not a regular file, but a device."""


class Unproved(Exception):
    """The file cannot be opened, or not be distinguished from others; the text says why."""


def open_behind(folder: str, pidfd: int, mapping: Mapping) -> OpenFile:
    """Opens the file behind a mapping.

    Args:
        folder: the process's in /proc.
        pidfd: of the same process.

    Raises:
        NoFile: it is not a regular file.
        OSError: no way leads to it.
        Unproved: a way leads to a file, but nothing says that it is this one.
    """
    if mapping.path.startswith(("anon_inode:", "/dmabuf:")):
        raise NoFile
    kind = file_system_type(mapping.dev, folder)
    if kind is not None and not _is_of_the_kernel(mapping.dev, kind):
        raise Unproved(f"it is on {kind}, whose reads need not be what is mapped")
    link = f"{folder}/map_files/{mapping.start:x}-{mapping.end:x}"
    try:
        return OpenFile(_opened(link, mapping, proves=True), own_description=True)
    except OSError as error:
        refusal = error
    found = _by_candidates(folder, pidfd, mapping)
    if found is not None:
        return found
    if refusal.errno == errno.EPERM:
        raise Unproved(
            "no descriptor of the process leads to it, and /proc/PID/map_files needs root or "
            "CAP_CHECKPOINT_RESTORE"
        )
    raise refusal


def _by_candidates(folder: str, pidfd: int, mapping: Mapping) -> OpenFile | None:
    """The file by a descriptor or path of the process's that can be proved to lead to it.

    Raises:
        OSError, Unproved: as `open_behind`.
    """
    unproved: Unproved | None = None
    for number in _numbers(folder, mapping):
        try:
            return _by_number(folder, pidfd, number, mapping)
        except OSError:
            continue
        except Unproved as error:
            unproved = error
    if not mapping.deleted and mapping.path.startswith("/"):
        try:
            fd = _opened(f"{folder}/root{mapping.path}", mapping, proves=False)
            return OpenFile(fd, own_description=True)
        except OSError:
            pass
        except Unproved as error:
            unproved = error
    if unproved is not None:
        raise unproved
    return None


def _numbers(folder: str, mapping: Mapping) -> Iterator[int]:
    """Descriptors of the process's that may be the mapping's file, by number and by name.

    Raises:
        OSError: they may not be inspected.
    """
    for name in os.listdir(f"{folder}/fd"):
        with contextlib.suppress(OSError):  # closed since
            if _may_be(f"{folder}/fd/{name}", f"{folder}/fdinfo/{name}", mapping):
                yield int(name)


def _may_be(link: str, fdinfo: str, mapping: Mapping) -> bool:
    """Whether a descriptor is worth a try; asks no file system that could stall us unless the
    number fits."""
    with open(fdinfo, "rb") as file:
        number = _INODE.search(file.read())
    if number is not None and int(number[1]) != mapping.inode:
        return False
    if os.readlink(link).removesuffix(DELETED) == mapping.path:
        return True
    st = os.stat(link)
    return (st.st_dev, st.st_ino) == (mapping.dev, mapping.inode)


def _by_number(folder: str, pidfd: int, number: int, mapping: Mapping) -> OpenFile:
    try:
        fd = _opened(f"{folder}/fd/{number}", mapping, proves=False)
    except PermissionError:
        return _copied(pidfd, number, mapping)
    return OpenFile(fd, own_description=True)


def _opened(link: str, mapping: Mapping, *, proves: bool) -> int:
    """Opens what a link of /proc leads to; `proves`: it leads to the mapping's own file."""
    # Looked at before it is opened: opening a device may do something.
    place = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        st = os.fstat(place)
        if not stat.S_ISREG(st.st_mode):
            if proves or (st.st_dev, st.st_ino) == (mapping.dev, mapping.inode):
                raise NoFile
            raise FileNotFoundError(errno.ENOENT, "it is another file")
        fd = os.open(f"/proc/self/fd/{place}", _OPEN)
    finally:
        os.close(place)
    return _kept_if_behind(fd, mapping, proves=proves)


def _copied(pidfd: int, number: int, mapping: Mapping) -> OpenFile:
    """Takes a copy of the descriptor out of the process: the inode's mode, which may be 0, plays no
    part in that, but the process must allow to be traced."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    fd = _kept_if_behind(fd, mapping, proves=False)
    try:
        own = os.open(f"/proc/self/fd/{fd}", _OPEN)
    except OSError:
        return OpenFile(fd, own_description=False)
    os.close(fd)
    return OpenFile(own, own_description=True)


def _kept_if_behind(fd: int, mapping: Mapping, *, proves: bool) -> int:
    try:
        if not is_behind(fd, mapping, proves=proves):
            raise FileNotFoundError(errno.ENOENT, "it is another file")
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_behind(fd: int, mapping: Mapping, *, proves: bool = False) -> bool:
    """Whether an open file is the one that is mapped there.

    Args:
        proves: it was opened by a way that leads to the mapping's own file.

    Returns:
        False where it is another one.

    Raises:
        Unproved: it may be, and it may be another one of the same number or of the same name.
    """
    st, magic = os.fstat(fd), _native.file_system_magic(fd)
    behind = (mapping.dev, mapping.inode)
    if magic in _ONE_NUMBER:
        return (st.st_dev, st.st_ino) == behind
    if proves:
        if magic == OVERLAYFS and not mapping.is_writable:
            raise Unproved("on overlayfs what is mapped read-only may have been copied up since")
        return True
    if not stat.S_ISREG(st.st_mode) or shown_in_maps(fd) != behind:
        return False
    kind = file_system_type(mapping.dev, "/proc/self")
    if kind in _ONE_NUMBER_TYPES:
        return True
    raise Unproved(f"on {kind or 'this file system'} an inode number proves nothing")


def shown_in_maps(fd: int) -> tuple[int, int] | None:
    """The device and inode that the kernel shows in /proc/PID/maps for a file, seen by mapping one
    page of it here; they may be others than `fstat` reports, and do not depend on mounts.

    Returns:
        None where the file cannot be mapped.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    # Nothing is touched, and nothing reserved.
    flags = mmap.MAP_SHARED | MAP_NORESERVE
    address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, flags, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        return None
    try:
        with open("/proc/self/maps", "rb") as file:
            found = parse_maps(os.fsdecode(file.read()))
    finally:
        libc.munmap(address, mmap.PAGESIZE)
    return next(((m.dev, m.inode) for m in found if m.start <= address < m.end), None)


def file_system_type(device: int, folder: str) -> str | None:
    """What is mounted from a device, in a process's mount namespace or in ours.

    Args:
        folder: the process's in /proc.

    Returns:
        None where it is mounted in neither: a memfd's, say, is mounted nowhere.

    Source: show_mountinfo() in fs/proc_namespace.c; its device is that of /proc/PID/maps, also
    where st_dev is another one.
    """
    for each in (folder, "/proc/self"):
        if (mount := of_device(device, read(f"{each}/mountinfo"))) is not None:
            return mount.kind
    return None


def _is_of_the_kernel(device: int, kind: str) -> bool:
    return kind in _OF_THE_KERNEL or (os.major(device) != 0 and not kind.startswith("fuse"))
