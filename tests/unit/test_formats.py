"""What is no raw RAM is told by a header that fits all of the file, and by nothing less."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecheck import formats
from pagecheck.formats import identify
from pagecheck.formats.found import Found, note, refusal
from pagecheck.formats.states import _crc64
from pagecheck.formats.streams import _xxh32

PAGE = 4096
RAM = b"".join(os.urandom(PAGE) if n in (2, 3, 9, 40) else bytes(PAGE) for n in range(64))
LONG = os.urandom(1 << 20) + RAM  # more than what is decoded of a stream


def seen(data: bytes) -> Found | None:
    fd = os.memfd_create("format")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        return identify(fd)
    finally:
        os.close(fd)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % PAGE)


def elf64(kind: int = 4, *, size: int = len(RAM), at: int = PAGE, order: str = "<") -> bytes:
    ident = b"\x7fELF\2" + (b"\1" if order == "<" else b"\2") + b"\1" + bytes(9)
    header = struct.pack(order + "HHIQQQIHHHHHH", kind, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack(order + "IIQQQQQQ", 1, 7, at, 0, 1 << 20, size, size, PAGE)
    return (ident + header + load).ljust(at, b"\0") + RAM


def elf32() -> bytes:
    header = struct.pack("<HHIIIIIHHHHHH", 4, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    load = struct.pack("<8I", 1, PAGE, 0, 0, len(RAM), len(RAM), 7, PAGE)
    return (b"\x7fELF\1\1\1" + bytes(9) + header + load).ljust(PAGE, b"\0") + RAM


def lime(*sizes: int) -> bytes:
    parts, start = [], 0x1000
    for size in sizes:
        parts.append(struct.pack("<IIQQQ", 0x4C694D45, 1, start, start + size - 1, 0))
        parts.append((RAM * 4)[:size])
        start += 2 * size
    return b"".join(parts)


def qcow2(version: int = 3, snapshots: int = 0) -> bytes:
    head = b"QFI\xfb" + struct.pack(
        ">IQIIQIIQQIIQ", version, 0, 0, 16, len(RAM), 0, 1, 3 << 16, 1 << 16, 1, snapshots, 0
    )
    return (head + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(5 << 16, b"\0") + RAM


def kdump(order: str = "<") -> bytes:
    head = b"KDUMP   " + struct.pack(order + "i", 6) + b"Linux".ljust(412, b"\0")
    head += struct.pack(order + "iiii", 0, PAGE, 1, 2)
    first = struct.pack(order + "QIIQ", 5 * PAGE, 100, 1, 0)
    return head.ljust(4 * PAGE, b"\0") + first.ljust(PAGE, b"\0") + RAM


def flattened() -> bytes:
    head = b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)
    pieces = b"".join(struct.pack(">qq", n * PAGE, PAGE) + os.urandom(PAGE) for n in range(5))
    return head.ljust(PAGE, b"\0") + pieces + struct.pack(">qq", -1, -1)


def windows() -> bytes:
    head = bytearray(b"PAGEDU64".ljust(0x2000, b"\0"))
    struct.pack_into("<I", head, 0x30, 0x8664)
    struct.pack_into("<IIQ4Q", head, 0x88, 2, 0, 64, 1, 30, 100, 34)
    struct.pack_into("<I", head, 0xF98, 1)
    return bytes(head) + RAM


def vmss() -> bytes:
    groups = [(b"memory", 1024, 512), (b"cpu", 2048, 100)]
    table = b"".join(struct.pack("<64sQQ", *group) for group in groups)
    return (struct.pack("<III", 0xBED2BED2, 8, 2) + table).ljust(PAGE, b"\0") + RAM


def qemu(kind: int = 7) -> bytes:
    head = b"QEVM" + struct.pack(">IB", 3, kind)
    if kind == 7:
        return padded(head + struct.pack(">I", 10) + b"pc-q35-7.2" + RAM)
    return padded(head + struct.pack(">IB", 2, 3) + b"ram" + RAM)


def libvirt() -> bytes:
    xml = b"<domain type='kvm'><name>vm</name></domain>\0"
    head = b"LibvirtQemudSave" + struct.pack("<5I", 2, len(xml), 1, 0, 0)
    return padded(head.ljust(92, b"\0") + xml + qemu())


def virtualbox() -> bytes:
    head = b"\x7fVirtualBox SavedState V2.0\n".ljust(60, b"\0")
    return head + struct.pack("<I", zlib.crc32(head + bytes(4))) + RAM


def firecracker() -> bytes:
    state = struct.pack("<Q", 0x0710198486640000) + os.urandom(2000)
    return state + struct.pack("<Q", _crc64(state))


def vma() -> bytes:
    import hashlib

    head = bytearray((b"VMA\0" + struct.pack(">I", 1)).ljust(12288, b"\0"))
    struct.pack_into(">I", head, 56, 12288)
    head[32:48] = hashlib.md5(head).digest()
    return bytes(head) + RAM


def tar(names: int = 1) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for n in range(names):
            info = tarfile.TarInfo(f"mem{n}")
            info.size = len(RAM)
            archive.addfile(info, io.BytesIO(RAM))
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mem", RAM)
    return stream.getvalue()


def vmdk() -> bytes:
    head = b"KDMV" + struct.pack("<IIQQQQIQQQ", 1, 3, 2048, 128, 1, 20, 512, 21, 26, 128)
    return (head.ljust(73, b"\0") + b"\n \r\n").ljust(64 * 1024, b"\0") + RAM


def vhd() -> bytes:
    head = bytearray(b"conectix".ljust(512, b"\0"))
    struct.pack_into(">I", head, 64, ~sum(head) & 0xFFFFFFFF)
    return bytes(head) + RAM


def vhdx() -> bytes:
    data = bytearray(b"vhdxfile".ljust(1 << 20, b"\0"))
    data[64 << 10 : (64 << 10) + 4] = b"head"
    data[192 << 10 : (192 << 10) + 4] = b"regi"
    return bytes(data)


def vdi() -> bytes:
    data = bytearray(b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(PAGE, b"\0"))
    struct.pack_into("<IIII", data, 0x40, 0xBEDA107F, 0x10001, 0x190, 1)
    struct.pack_into("<II", data, 0x154, 512, 1024)
    return bytes(data) + RAM


def xen() -> bytes:
    return (
        b"\xff" * 8
        + struct.pack(">4sIHHI", b"XENF", 3, 0, 0, 0)
        + bytes(struct.pack("<IHHII", 1, 12, 0, 4, 17))
        + RAM
    )


def avml() -> bytes:
    return struct.pack("<4sIQQQ", b"AVML", 2, 0, PAGE, 0) + b"\xff\6\0\0sNaPpY" + RAM


CERTAIN: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "elf64": (elf64, "ELF core", "--offset 4096 --length 262144"),
    "elf64 big endian": (lambda: elf64(order=">"), "ELF core", "--offset 4096"),
    "elf32": (elf32, "ELF core", "--offset 4096"),
    "elf at an odd offset": (lambda: elf64(at=0x448), "ELF core", "skip=1096 count=262144"),
    "elf program": (lambda: elf64(2), "ELF program", "guest RAM"),
    "lime": (lambda: lime(len(RAM)), "LiME", "avml-convert"),
    "lime of many ranges": (lambda: lime(*[3 * PAGE] * 20), "LiME", "avml-convert"),
    "avml": (avml, "AVML", "avml-convert"),
    "kdump": (kdump, "kdump", "pmemsave"),
    "kdump big endian": (lambda: kdump(">"), "kdump", "pmemsave"),
    "flattened": (flattened, "flattened kdump", "makedumpfile -R"),
    "windows": (windows, "Windows crash dump", "volatility3"),
    "vmss": (vmss, "VMware", ".vmem"),
    "qemu": (qemu, "QEMU migration stream", "-incoming"),
    "qemu without configuration": (lambda: qemu(1), "QEMU migration stream", "-incoming"),
    "libvirt": (libvirt, "libvirt", "virsh restore"),
    "virtualbox": (virtualbox, "VirtualBox saved state", "dumpvmcore"),
    "firecracker": (firecracker, "Firecracker VM state", "mem_file_path"),
    "xen": (xen, "Xen", "xl restore"),
    "qcow2": (qcow2, "qcow2", "qemu-img convert"),
    "qcow2 of version 2": (lambda: qcow2(2), "qcow2", "qemu-img convert"),
    "qcow2 with snapshots": (lambda: qcow2(snapshots=1), "qcow2", "-loadvm"),
    "vmdk": (vmdk, "VMDK", "qemu-img convert"),
    "vhd": (vhd, "VHD", "qemu-img convert"),
    "vhdx": (vhdx, "VHDX", "qemu-img convert"),
    "vdi": (vdi, "VDI", "qemu-img convert"),
    "vma": (vma, "VMA", "vma extract"),
    "tar": (tar, "tar", "tar -x"),
    "tar of two": (lambda: tar(2), "tar", "tar -x"),
    "zip": (zipped, "zip", "unzip"),
    "json": (lambda: json.dumps({"config": [1, 2]}).encode(), "JSON", "memory-ranges"),
    "gzip": (lambda: gzip.compress(RAM), "gzip", "gzip -dc"),
    "long gzip": (lambda: gzip.compress(LONG), "gzip", "gzip -dc"),
    "gzip of zeros": (lambda: gzip.compress(bytes(64 << 20)), "gzip", "gzip -dc"),
    "two gzip members": (lambda: gzip.compress(RAM) * 2, "gzip", "gzip -dc"),
    "zlib": (lambda: zlib.compress(RAM), "zlib", "zlib-flate"),
    "long zlib": (lambda: zlib.compress(LONG, 9), "zlib", "zlib-flate"),
    "bzip2": (lambda: bz2.compress(RAM), "bzip2", "bzip2 -dc"),
    "long bzip2": (lambda: bz2.compress(LONG * 3), "bzip2", "bzip2 -dc"),
    "xz": (lambda: lzma.compress(RAM), "xz", "xz -dc"),
    "lzma": (lambda: lzma.compress(RAM, lzma.FORMAT_ALONE), "lzma", "xz -dc"),
}


@pytest.mark.parametrize("pad", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("case", CERTAIN)
def test_a_consistent_header_is_certain(case: str, pad: bool) -> None:
    make, name, command = CERTAIN[case]
    if pad and case == "firecracker":
        pytest.skip("its checksum has to be at the end")
    data = make()
    found = seen(padded(data) if pad else data)
    assert found is not None
    assert found.doubt is None
    assert name in found.name
    line = refusal("a b.raw", found)
    assert command in line
    assert "--format raw" in line
    assert "FILE " not in line.replace("FILE.", "FILE ") or "'a b.raw'" in line


TOOLS = {
    "gzip": ("gzip -c1 {ram}", "gzip"),
    "zstd": ("zstd -qc {ram}", "zstd"),
    "zstd, long": ("zstd -qc -19 --long {long}", "zstd"),
    "zstd, no checksum": ("zstd -qc --no-check {long}", "zstd"),
    "zstd, threads": ("zstd -qc -T4 {long}", "zstd"),
    "lz4": ("lz4 -qc {ram}", "lz4"),
    "lz4, long": ("lz4 -qc {long}", "lz4"),
    "lz4, blocks": ("lz4 -qc -B4 -BX --content-size {long}", "lz4"),
    "lzop": ("lzop -c {ram}", "lzop"),
    "lzop, long": ("lzop -c -9 {long}", "lzop"),
    "xz": ("xz -c0 {long}", "xz"),
    "xz, blocks": ("xz -c0 --block-size=100000 --check=sha256 {long}", "xz"),
    "bzip2": ("bzip2 -c {long}", "bzip2"),
    "tar": ("tar -cf - -C / {ram}", "tar"),
    "tar, pax": ("tar --format=pax -cf - -C / {ram}", "tar"),
    "zip": ("zip -q - {ram}", "zip"),
    "7z": ("7z a -bd {out} {ram}", "7z"),
    "qcow2": ("qemu-img convert -O qcow2 {ram} {out}", "qcow2"),
    "qcow2, small clusters": (
        "qemu-img convert -O qcow2 -o compat=0.10,cluster_size=512 {ram} {out}",
        "qcow2",
    ),
    "qcow2, large": ("qemu-img create -q -f qcow2 {out} 8T", "qcow2"),
    "vmdk": ("qemu-img convert -O vmdk {ram} {out}", "VMDK"),
    "vmdk, streamed": ("qemu-img convert -O vmdk -o subformat=streamOptimized {ram} {out}", "VMDK"),
    "vhdx": ("qemu-img convert -O vhdx {ram} {out}", "VHDX"),
    "vdi": ("qemu-img convert -O vdi {ram} {out}", "VDI"),
    "vhd": ("qemu-img convert -O vpc {ram} {out}", "VHD"),
}


@pytest.mark.parametrize("case", TOOLS)
def test_what_the_real_tools_write(tmp_path: Path, case: str) -> None:
    command, name = TOOLS[case]
    tool = command.split()[0]
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    places = {each: str(tmp_path / each) for each in ("ram", "long", "out")}
    (tmp_path / "ram").write_bytes(RAM)
    (tmp_path / "long").write_bytes(LONG)
    done = subprocess.run(
        [part.format(**places) for part in command.split()], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    made = next((p for p in tmp_path.glob("out*")), None)
    found = seen(made.read_bytes() if made is not None else done.stdout)
    assert found is not None
    assert found.doubt is None
    assert name in found.name


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


def test_checksums_against_published_values() -> None:
    assert _crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert _xxh32(b"") == 0x02CC5D05
    assert _xxh32(b"abc") == 0x32D153FF


def test_a_plain_file_costs_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        reads.append(size)
        return pread(fd, size, at)

    monkeypatch.setattr(formats.os, "pread", counted)
    assert seen(RAM) is None
    assert reads == [512]


def test_a_file_that_cannot_be_read_is_left_to_the_scan(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert identify(fd) is None
    finally:
        os.close(fd)


def test_names_in_commands_are_quoted() -> None:
    found = Found("x", "gzip -dc FILE >FILE.raw")
    assert "gzip -dc 'a; b' >'a; b'.raw;" in refusal("a; b", found)
    assert "gzip -dc /dev/shm/vm >" in refusal("shm:/vm", found)
    assert "gzip -dc FILE >FILE.raw;" in refusal("fd:3", found)


@pytest.mark.parametrize("case", sorted(set(CERTAIN) - {"gzip of zeros"}))
def test_a_file_that_ends_in_its_header(case: str) -> None:
    """At each of its first bytes; a file of "\\x7fELF" alone was a traceback."""
    data = _made(case)
    for size in range(min(len(data), 300)):
        found = seen(data[:size])
        assert found is None or (found.name and found.remedy)
