"""A header that does not fit all of the file is a doubt, RAM is RAM, and no file is too odd."""

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecheck.formats import identify
from pagecheck.formats.found import note
from tests.unit.formats_made import (
    CERTAIN,
    LONG,
    PAGE,
    RAM,
    avml,
    elf64,
    firecracker,
    flattened,
    kdump,
    libvirt,
    lime,
    qcow2,
    qemu,
    seen,
    tar,
    vdi,
    vhd,
    vhdx,
    virtualbox,
    vma,
    vmdk,
    vmss,
    windows,
    xen,
    zipped,
)

# A part of the header that is wrong: (what is made, where, the bytes there).
DOUBTFUL: dict[str, tuple[Callable[[], bytes], int, bytes]] = {
    "elf that goes on": (lambda: elf64() + bytes(70000) + b"x", 0, b""),
    "elf truncated": (lambda: elf64()[:-PAGE], 0, b""),
    "elf without tables": (elf64, 32, b"\xff" * 8),
    "elf of no known kind": (elf64, 16, b"\x09"),
    "elf of no known class": (elf64, 4, b"\x07"),
    "elf without memory": (lambda: elf64(size=0), 0, b""),
    "lime whose range is too long": (lambda: lime(len(RAM)), 16, b"\xff" * 6),
    "lime of another version": (lambda: lime(len(RAM)), 4, b"\2"),
    "avml without its stream": (avml, 32, b"x"),
    "kdump without pages": (kdump, 4 * PAGE, b"\xff" * 8),
    "kdump of an odd block size": (kdump, 428, b"\1"),
    "flattened without pieces": (flattened, PAGE + 8, b"\x7f"),
    "windows with other pages": (windows, 0x90, b"\xff"),
    "windows of no known machine": (windows, 0x30, b"\0"),
    "vmss without groups": (vmss, 8, b"\0"),
    "vmss with a wrong group": (vmss, 12, b"\1\2"),
    "qemu of version 4": (qemu, 7, b"\4"),
    "qemu without a section": (qemu, 8, b"\x55"),
    "libvirt without a domain": (libvirt, 92, b"x"),
    "virtualbox, checksum": (virtualbox, 60, b"????"),
    "firecracker, checksum": (firecracker, 100, b"????????"),
    "xen, page size": (xen, 28, b"\7"),
    "qcow2, cluster size": (qcow2, 23, b"\xff"),
    "qcow2, tables past the end": (qcow2, 40, b"\1"),
    "qcow2, tables too small": (qcow2, 24, b"\1"),
    "qcow2, odd table": (qcow2, 47, b"\1"),
    "vmdk, line ends": (vmdk, 73, b"\r\n"),
    "vhd, checksum": (vhd, 100, b"x"),
    "vhdx, headers": (vhdx, 64 << 10, b"x"),
    "vdi, version": (vdi, 0x46, b"\7"),
    "vma, checksum": (vma, 60, b"x"),
    "zip without its end": (lambda: zipped()[:-22] + bytes(22), 0, b""),
    "tar and then something else": (lambda: tar()[: 512 + len(RAM)] + b"x" * 100000, 0, b""),
    "gzip that breaks off": (lambda: gzip.compress(RAM)[:-100], 0, b""),
    "gzip that is none": (lambda: b"\x1f\x8b\x08" + RAM[2 * PAGE : 4 * PAGE], 0, b""),
    "gzip and then RAM": (lambda: gzip.compress(RAM) + os.urandom(100000), 0, b""),
    "gzip with zeros further on": (lambda: gzip.compress(LONG) + bytes(4 << 20), 0, b""),
    "xz, header": (lambda: lzma.compress(RAM), 8, b"????"),
    "xz without its end": (lambda: lzma.compress(RAM)[:-50], 0, b""),
    "zstd that is none": (lambda: b"\x28\xb5\x2f\xfd" + os.urandom(8 * PAGE), 4, b"\x24\xff"),
    "lz4 that is none": (lambda: b"\x04\x22\x4d\x18" + RAM, 0, b""),
    "bzip2 that is none": (lambda: bz2.compress(RAM), 11, b"?" * 200),
    "lzop that is none": (lambda: b"\x89LZO\0\r\n\x1a\n" + RAM, 0, b""),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_header_that_does_not_fit_is_a_doubt(case: str) -> None:
    make, at, patch = DOUBTFUL[case]
    data = make()
    found = seen(data[:at] + patch + data[at + len(patch) :])
    assert found is not None
    assert found.doubt is not None
    assert "treated as raw guest RAM" in note("x", found)


RAW = {
    "zeros": bytes(1 << 20),
    "random": os.urandom(1 << 20),
    "an interrupt table": struct.pack("<HH", 0xFF53, 0xF000) * 256 + RAM,
    "elf inside": RAM[: 2 * PAGE] + elf64(),
    "two bytes of zlib": b"x\x9c" + RAM[2 * PAGE :],
    "two bytes of zlib that check": b"x\x01" + os.urandom(PAGE),
    "two letters of bzip2": b"BZh1" + RAM,
    "two letters of zip": b"PK" + RAM,
    "a brace": b"{ " + RAM,
    "ustar at its place": b"x" * 257 + b"ustar" + RAM,
    "three bytes of lzma": b"]\0\0" + os.urandom(PAGE),
    "a text": b"# not a disk\n".ljust(PAGE),
    "short": b"x",
    "empty": b"",
}


@pytest.mark.parametrize("case", RAW)
def test_ram_is_ram(case: str) -> None:
    assert seen(RAW[case]) is None


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CERTAIN)),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8),
    st.integers(0, 70000),
)
def test_no_file_is_too_odd(case: str, changes: list[tuple[int, int]], size: int) -> None:
    """Whatever a header says, the answer is one of the three, soon."""
    if case == "gzip of zeros":
        return
    data = bytearray(_made(case)[:size])
    for at, value in changes:
        if at < len(data):
            data[at] = value
    found = seen(bytes(data))
    assert found is None or (found.name and found.remedy)


_MADE: dict[str, bytes] = {}


def _made(case: str) -> bytes:
    if case not in _MADE:
        _MADE[case] = CERTAIN[case][0]()
    return _MADE[case]


def test_a_file_that_cannot_be_read_is_left_to_the_scan(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert identify(fd) is None
    finally:
        os.close(fd)


@pytest.mark.parametrize("case", sorted(set(CERTAIN) - {"gzip of zeros"}))
def test_a_file_that_ends_in_its_header(case: str) -> None:
    """At each of its first bytes; a file of "\\x7fELF" alone was a traceback."""
    data = _made(case)
    for size in range(min(len(data), 300)):
        found = seen(data[:size])
        assert found is None or (found.name and found.remedy)
