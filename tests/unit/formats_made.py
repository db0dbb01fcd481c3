"""A file of each format that is no raw RAM, made here, and what is said of each."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from pagecheck.formats import identify
from pagecheck.formats.found import Found
from pagecheck.formats.states import _crc64

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
