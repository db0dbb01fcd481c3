"""States of VMs: what VMMs save beside guest RAM or around it.

Source: QEMU's migration/savevm.c and docs/devel/migration; libvirt's src/qemu/qemu_saveimage.h; the
group table of VMware's .vmss as crash and volatility3 read it; VirtualBox's SSM.cpp; Xen's
docs/specs/libxc-migration-stream; Firecracker's src/vmm/src/snapshot.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from pagecheck.formats.found import Found

if TYPE_CHECKING:
    from pagecheck.formats.reading import File

GROUPS_MAX: Final = 512
STATE_BYTES_MAX: Final = 1 << 20
_VMWARE: Final = (0xBED2BED2, 0xBED3BED3, 0xBED0BED0, 0xBAD1BAD1)
_FIRECRACKER: Final = (b"\0\0\x64\x86\x84\x19\x10\7", b"\0\0\xaa\xaa\x84\x19\x10\7")
_VIRTUALBOX: Final = b"\x7fVirtualBox SavedState V"


def identify(file: File) -> Found | None:
    """Which VMM's state it is, if any's."""
    head = file.head
    if head.startswith(b"QEVM"):
        return _qemu(file)
    if head.startswith((b"LibvirtQemudSave", b"LibvirtQemudPart")):
        return _libvirt(file)
    if int.from_bytes(head[:4], "little") in _VMWARE:
        return _vmware(file)
    if head.startswith(_VIRTUALBOX):
        return _virtualbox(file)
    if head.startswith(b"\xff" * 8 + b"XENF"):
        return _xen(file)
    if head.startswith(b"Xen saved domain, xl format\n \0 \r"):
        return Found("a saved Xen domain", "xl restore FILE, and scan the running domain's dump")
    if head.startswith(_FIRECRACKER):
        return _firecracker(file)
    return None


def _qemu(file: File) -> Found:
    mapped = b"mapped-ram" in file.head
    found = Found(
        "a QEMU migration stream" + (" (mapped-ram)" if mapped else ""),
        "start QEMU with the same devices, shared RAM, and -incoming 'exec:cat FILE', then scan "
        "qmp:SOCKET",
    )
    version, kind = file.unpack(">IB", 4)
    if version != 3:
        return found._replace(doubt="its version is not 3")
    if kind == 7:  # the configuration: a machine type
        (length,) = file.unpack(">I", 9)
        name = file.at(13, min(length, 256))
        if 0 < length <= 256 and name.isascii() and name.decode("ascii").isprintable():
            return found
    elif kind in (1, 4):  # a section: its number, its name
        length = file.head[13] if len(file.head) > 13 else 0
        name = file.at(14, length)
        if length and name.isascii() and name.decode("ascii").isprintable():
            return found
    return found._replace(doubt="no section follows its header")


def _libvirt(file: File) -> Found:
    whole = file.head.startswith(b"LibvirtQemudSave")
    found = Found(
        "a domain saved by libvirt" if whole else "a domain that libvirt did not finish saving",
        "virsh restore FILE, then scan the running VM (docs/libvirt.md)",
    )
    for byte_order in "<>":
        version, length, _running, form = file.unpack(byte_order + "4I", 16)
        if 1 <= version <= 16 and form <= 16 and length > 0 and file.holds(92, length):
            text = file.at(92, 4096).lstrip()
            if text.startswith(b"<"):
                return found
    return found._replace(doubt="no description of a domain follows its header")


def _vmware(file: File) -> Found:
    found = Found("a VMware state (.vmss, .vmsn)", "scan the .vmem file that lies beside it")
    (groups,) = file.unpack("<I", 8)
    if not 0 < groups <= GROUPS_MAX or not file.holds(12, 80 * groups):
        return found._replace(doubt="its group table is invalid")
    for n in range(groups):
        name, at, size = file.unpack("<64sQQ", 12 + 80 * n)
        text = name.rstrip(b"\0")
        fits = text.isascii() and text.decode("ascii").isprintable() and file.holds(at, size)
        if not fits or not text:
            return found._replace(doubt=f"its group {n} is invalid")
    return found


def _virtualbox(file: File) -> Found:
    found = Found("a VirtualBox saved state", "VBoxManage debugvm VM dumpvmcore writes an ELF core")
    header = file.at(0, 64)
    (checksum,) = file.unpack("<I", 60)
    if zlib.crc32(header[:60] + bytes(4)) != checksum:
        return found._replace(doubt="its header's checksum is not the known one")
    return found


def _xen(file: File) -> Found:
    found = Found("a saved Xen domain", "xl restore FILE, and scan the running domain's dump")
    version, options, _reserved = file.unpack(">IHH", 12)
    kind, shift, _pad = file.unpack("<IHH", 24)
    if not 1 <= version <= 16 or options > 1 or not 1 <= kind <= 4 or shift != 12:
        return found._replace(doubt="its header is invalid")
    return found


def _firecracker(file: File) -> Found:
    found = Found(
        "a Firecracker VM state", "scan the memory file (mem_file_path) that belongs to it"
    )
    if file.size <= STATE_BYTES_MAX:
        checksum = _crc64(file.at(0, file.size - 8))
        if file.unpack("<Q", file.size - 8)[0] == checksum:
            return found
    return found._replace(doubt="its checksum is not at the file's end")


def _crc64(data: bytes) -> int:
    """CRC-64/Jones, reflected, from 0."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x95AC9329AC4BC9B5 if value & 1 else 0)
        table.append(value)
    crc = 0
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
