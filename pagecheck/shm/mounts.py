"""What this process's mount table says of a file system, without accessing the file system.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os

from pagecheck.model import is_vm_source

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple

MOUNTINFO: Final = "/proc/self/mountinfo"
# The kernel itself serves these, or an overlay of them.
NEVER_STALL: Final = frozenset(
    [
        *("bcachefs", "btrfs", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs"),
        *("hugetlbfs", "iso9660", "ntfs3", "overlay", "ramfs", "rootfs", "squashfs", "tmpfs"),
        *("udf", "vfat", "xfs", "zfs"),
    ]
)
_HUGE_PAGES: Final = "/sys/kernel/mm/hugepages"  # has a folder hugepages-2048kB for each size
_HUGE_SHIFT: Final = 26  # Source: MFD_HUGE_SHIFT in linux/memfd.h
_LINKS_MAX: Final = 40  # as in the kernel
_MAGIC_LINKS: Final = ("root", "cwd", "fd", "map_files", "task")


class Mount(NamedTuple):
    """One mount.

    Attributes:
        number, parent: ids; the parent is the mount that it lies on.
        device: major and minor number, as in st_dev; btrfs reports other ones there.
        point: where it is mounted.
        kind: `ext4`, `tmpfs`, `fuse.sshfs`, ...
        options: of the mount and of the file system.
    """

    number: int
    parent: int
    device: tuple[int, int]
    point: str
    kind: str
    options: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """The value of `name=value`, "" of a bare `name`, or None."""
        for each in self.options:
            key, _, value = each.partition("=")
            if key == name:
                return value
        return None


def read(path: str = MOUNTINFO) -> list[Mount]:
    """All mounts; none where /proc is not mounted."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return [_parse(os.fsdecode(line)) for line in lines]


def _parse(line: str) -> Mount:
    fields = line.split(" ")
    after = fields.index("-", 6)  # optional fields precede it
    major, _, minor = fields[2].partition(":")
    return Mount(
        int(fields[0]),
        int(fields[1]),
        (int(major), int(minor)),
        _plain(fields[4]),
        fields[after + 1],
        (*fields[5].split(","), *fields[after + 3].split(",")),
    )


def _plain(field: str) -> str:
    """Without the kernel's octal escapes of blank, tab, newline and backslash."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def of_device(device: int, mounts: list[Mount] | None = None) -> Mount | None:
    """A mount of the file system with this st_dev; None where this namespace has none."""
    wanted = (os.major(device), os.minor(device))
    known = read() if mounts is None else mounts
    return next((mount for mount in known if mount.device == wanted), None)


def may_stall(path: str, mounts: list[Mount] | None = None) -> str | None:
    """Whether accessing a path may wait for a program or for a network.

    The path is resolved by the mount table; only file systems that never stall are accessed.

    Returns:
        The kind of the first file system on the way that may stall; None where there is none.
    """
    return _Walk(read() if mounts is None else mounts).kind(os.path.join(os.getcwd(), path))


def source_may_stall(source: str) -> str | None:
    """The same for a source as users name it; what a VMM reports on its socket is not known yet."""
    kind, _, rest = source.partition(":")
    if kind == "pid" and _is_number(pid := rest.partition(":")[0]):
        return process_may_stall(int(pid))
    if source.startswith("fd:"):
        return descriptor_may_stall(int(rest)) if _is_number(rest) else None
    if source.startswith("shm:"):
        return may_stall("/dev/shm")
    return None if is_vm_source(source) else may_stall(source)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def process_may_stall(pid: int, proc: str = "/proc") -> str | None:
    """The kind of a file system that may stall and of which the process maps a file shared, as it
    does guest RAM, or None. What a file is called proves nothing: one of FUSE may be /memfd:ram.
    """
    kinds = {mount.device: mount.kind for mount in read(f"{proc}/{pid}/mountinfo")}
    kinds |= {(os.major(each), os.minor(each)): "tmpfs" for each, _ in memory_devices()}
    try:
        with open(f"{proc}/{pid}/maps", "rb") as file:
            fields = [line.split(maxsplit=5) for line in file]
    except OSError:
        return None  # gone, or not permitted, which the scan reports
    for device, path in {
        (each[3], each[5]) for each in fields if len(each) > 5 and each[1].endswith(b"s")
    }:
        major, _, minor = device.partition(b":")
        if not path.startswith(b"/"):  # "[heap]", "anon_inode:...": no path begins so
            continue
        kind = kinds.get((int(major, 16), int(minor, 16)), "another mount namespace's")
        if kind not in NEVER_STALL:
            return kind
    return None


def memory_devices() -> Iterator[tuple[int, int]]:
    """The device (st_dev) of each of the kernel's own mounts, on which memfds and shared anonymous
    mappings are, and the size of its huge pages; 0: it has ordinary ones. An empty memfd takes
    none."""
    for page in (0, *_huge_pages()):
        flags = os.MFD_HUGETLB | (page.bit_length() - 1) << _HUGE_SHIFT if page else 0
        try:
            fd = os.memfd_create("pagecheck", os.MFD_CLOEXEC | flags)
        except (OSError, OverflowError):
            continue
        yield os.fstat(fd).st_dev, page
        os.close(fd)


def _huge_pages() -> list[int]:
    try:
        names = os.listdir(_HUGE_PAGES)
    except OSError:
        return []
    return [int(each.removeprefix("hugepages-").removesuffix("kB")) << 10 for each in names]


def descriptor_may_stall(fd: int) -> str | None:
    """The same for an open file, without a request to its file system."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        number = int(fields["mnt_id"])
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("/"):
            return None  # a pipe, a socket, or another that has no name
    except (OSError, KeyError, ValueError):
        return None
    mount = next((each for each in read() if each.number == number), None)
    if mount is None:  # the kernel's own, such as a memfd's, or of another namespace
        return None if _has_seals(fd) else "another mount namespace's"
    return None if mount.kind in NEVER_STALL else mount.kind


def _has_seals(fd: int) -> bool:
    """Whether the file is on tmpfs or hugetlbfs. Source: memfd_get_seals in mm/memfd.c."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


class _Walk:
    """Resolves paths as the kernel does, mount by mount."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._on = {(mount.parent, mount.point): mount for mount in mounts}
        numbers = {mount.number for mount in mounts}
        roots = [m for m in mounts if m.point == "/" and m.parent not in numbers - {m.number}]
        self._root = self._top(roots[0]) if roots else None
        self._links = 0

    def _top(self, mount: Mount) -> Mount:
        """The topmost mount at the same place."""
        while (above := self._on.get((mount.number, mount.point))) not in (None, mount):
            assert above is not None
            mount = above
        return mount

    def _at(self, path: str) -> Mount | None:
        """The mount that a path without links lies on."""
        mount, place = self._root, ""
        for name in path.split("/")[1:]:
            place = f"{place}/{name}"
            if mount is not None and (mount.number, place) in self._on:
                mount = self._top(self._on[mount.number, place])
        return mount

    def kind(self, path: str) -> str | None:
        """See `may_stall`."""
        todo = path.split("/")[::-1]
        place, mount = "", self._root
        while todo:
            name = todo.pop()
            if mount is None:
                return None  # no /proc: unknown
            if name in ("", "."):
                continue
            if mount.kind == "proc":
                return _through_proc([name, *todo[::-1]])
            if mount.kind not in NEVER_STALL:  # also on the way up: it is asked for permission
                return mount.kind
            if name == "..":
                place = place.rpartition("/")[0]
                mount = self._at(place)
                continue
            here = f"{place}/{name}"
            if (mount.number, here) in self._on:
                place, mount = here, self._top(self._on[mount.number, here])
                continue
            link = self._link(here)
            if link is None:
                place = here
                continue
            if link.startswith("/"):
                place, mount = "", self._root
            todo += link.split("/")[::-1]
        return None if mount is None or mount.kind in (*NEVER_STALL, "proc") else mount.kind

    def _link(self, path: str) -> str | None:
        self._links += 1
        if self._links > 100 * _LINKS_MAX:
            return None
        try:
            return os.readlink(path)
        except OSError:  # not a link, or missing, which the caller finds
            return None


def _through_proc(names: list[str]) -> str | None:
    """Links of /proc lead to files, whatever their text says."""
    if names[0] in ("self", "thread-self", str(os.getpid())):
        is_fd = names[1:2] == ["fd"] and len(names) == 3 and names[2].isdigit()
        return descriptor_may_stall(int(names[2])) if is_fd else None
    is_magic_link = names[0].isdigit() and len(names) > 1 and names[1] in _MAGIC_LINKS
    return "proc" if is_magic_link else None
