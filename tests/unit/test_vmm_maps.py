"""The lines of /proc/PID/maps, and which of them map one file in one piece."""

from __future__ import annotations

import os

import pytest

from pagecheck.errors import SourceError
from pagecheck.vmm.process.maps import Mapping, covering, is_still_mapped, parse_maps

MIB = 1 << 20
REAL = """\
55d0c2c00000-55d0c2c01000 r--p 00000000 fe:00 1179 /usr/bin/qemu-system-x86_64
7f35e0000000-7f35e8000000 rw-p 00000000 00:00 0
7f35e8000000-7f3627fff000 rwxp 00000000 00:00 0 [anon:jit code]
7f6ff7fff000-7f70b7fff000 rw-s 00100000 00:01 4242                       /memfd:with space (deleted)
7f70b7fff000-7f70b8000000 rw-s 00000000 1f:03 77 /dev/shm/a\\012b
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_lines() -> None:
    found = parse_maps(REAL)
    assert [each.path for each in found] == [
        "/usr/bin/qemu-system-x86_64",
        "",
        "[anon:jit code]",
        "/memfd:with space",
        "/dev/shm/a\nb",
        "[vsyscall]",
    ]
    memfd = found[3]
    assert (memfd.start, memfd.end, memfd.offset) == (0x7F6FF7FFF000, 0x7F70B7FFF000, MIB)
    assert memfd.size == 0xC0000000
    assert (memfd.inode, memfd.dev, memfd.deleted) == (4242, os.makedev(0, 1), True)
    assert memfd.is_shared
    assert memfd.is_writable
    assert found[4].dev == os.makedev(0x1F, 3)
    assert not found[0].is_shared
    assert not found[0].deleted


def test_a_line_that_is_none() -> None:
    with pytest.raises(SourceError, match="not a mapping: 'nonsense'"):
        parse_maps(f"{REAL}nonsense\n")


def part(start: int, end: int, offset: int = 0, inode: int = 7, perms: str = "rw-s") -> Mapping:
    return Mapping(start, end, perms, offset, 1, inode, "/memfd:ram", True)


def test_one_mapping_that_covers() -> None:
    whole = part(0x1000, 0x9000)
    assert covering([whole], 0x1000, 0x8000) == whole
    assert covering([part(0, 0x1000), whole], 0x2000, 0x7000) == whole
    assert covering([whole], 0x1000, 0x8001) is None
    assert covering([whole], 0xFFF, 0x8000) is None
    assert covering([], 0x1000, 1) is None


def test_mappings_that_cover_together() -> None:
    first, second = part(0x1000, 0x3000, 0x10000), part(0x3000, 0x9000, 0x12000)
    assert covering([first, second], 0x1000, 0x8000) == first


@pytest.mark.parametrize(
    "second",
    [
        part(0x4000, 0x9000, 0x3000),  # a gap
        part(0x3000, 0x9000, 0x3000),  # elsewhere in the file
        part(0x3000, 0x9000, 0x2000, inode=8),  # another file
        part(0x3000, 0x9000, 0x2000, perms="rw-p"),
    ],
)
def test_mappings_that_do_not_belong_together(second: Mapping) -> None:
    assert covering([part(0x1000, 0x3000), second], 0x1000, 0x8000) is None


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([part(0x1000, 0x9000)], True),
        ([part(0x1000, 0x9000)._replace(path="/renamed", deleted=False)], True),
        ([part(0, 0x2000, -0x1000), part(0x2000, 0x9000, 0x1000)], True),  # split and grown
        ([part(0x1000, 0x8000)], False),
        ([part(0x1000, 0x9000, inode=8)], False),
        ([part(0x1000, 0x9000, 0x1000)], False),
        ([part(0x1000, 0x9000, perms="rw-p")], False),
        ([part(0x1000, 0x9000)._replace(dev=2)], False),
        ([], False),
    ],
)
def test_what_is_mapped_there_still(now: list[Mapping], expected: bool) -> None:
    assert is_still_mapped(part(0x1000, 0x9000), now) is expected
