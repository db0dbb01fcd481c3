"""What this process's mount namespace says of a file system, without touching the file system.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

MOUNTINFO: Final = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """One mount.

    Attributes:
        number, parent: ids; the parent is the mount that it lies on.
        device: major and minor number, as in st_dev; btrfs tells other ones there.
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
    """All mounts; none where /proc is not there."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return [_parse(os.fsdecode(line)) for line in lines]


def _parse(line: str) -> Mount:
    fields = line.split(" ")
    after = fields.index("-", 6)  # optional fields come before it
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
