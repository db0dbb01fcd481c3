"""Disk image containers. A raw disk image cannot be distinguished from RAM and is treated as RAM.

Source: QEMU's docs/interop/qcow2.txt; VMware's Virtual Disk Format 5.0; the VHD and VHDX
specifications; VirtualBox's VDICore.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pagecheck.formats.found import Found

if TYPE_CHECKING:
    from pagecheck.formats.reading import File

_CONVERT: Final = (
    "a disk image is not RAM; qemu-img convert -O raw FILE FILE.raw, if RAM was put in it"
)
_SAVEVM: Final = "only QEMU can read the RAM of its snapshots: -loadvm NAME, then scan qmp:SOCKET"


def identify(file: File) -> Found | None:
    """Which kind of image it is, if any."""
    head = file.head
    if head.startswith(b"QFI\xfb"):
        return _qcow(file)
    if head.startswith(b"vhdxfile"):
        return _vhdx(file)
    if head.startswith(b"conectix"):
        return _vhd(file)
    if head.startswith(b"<<< ") and file.unpack("<I", 0x40)[0] == 0xBEDA107F:
        return _vdi(file)
    if head.startswith(b"# Disk DescriptorFile"):
        return Found("a VMware disk's description", _CONVERT)
    if head.startswith(b"COWD"):
        return Found("a VMware disk image (COWD)", _CONVERT, "it is of an old version")
    return None


def _qcow(file: File) -> Found:
    version, backing, _length, bits, size, crypt, entries, table = file.unpack(">IQIIQIIQ", 4)
    counts, clusters, snapshots, _at = file.unpack(">QIIQ", 48)
    found = Found("a qcow2 disk image", _SAVEVM if 0 < snapshots < 65536 else _CONVERT)
    if version == 1:
        return Found("a qcow disk image", _CONVERT, "it is of an old version")
    if version not in (2, 3) or not 9 <= bits <= 21 or crypt > 2:
        return found._replace(doubt="its version, cluster size or encryption method is invalid")
    cluster = 1 << bits
    needed = -(-size // (cluster * cluster // 8))
    if table % cluster or counts % cluster or not clusters or entries < needed:
        return found._replace(doubt="its tables do not fit its size")
    whole = file.holds(table, 8 * entries) and file.holds(counts, cluster * clusters)
    if not whole or not (table and counts) or backing > file.size:
        return found._replace(doubt="its tables lie past the end of the file")
    if version == 3 and not 104 <= file.unpack(">I", 100)[0] <= cluster:
        return found._replace(doubt="its header's length is invalid")
    return found


def _vhdx(file: File) -> Found:
    found = Found("a VHDX disk image", _CONVERT)
    if file.at(64 << 10, 4) != b"head" or file.at(192 << 10, 4) != b"regi":
        return found._replace(doubt="its headers are not where they belong")
    return found


def _vhd(file: File) -> Found:
    found = Found("a VHD disk image", _CONVERT)
    header = file.at(0, 512)
    (checksum,) = file.unpack(">I", 64)
    without = header[:64] + bytes(4) + header[68:]
    if ~sum(without) & 0xFFFFFFFF != checksum:
        return found._replace(doubt="its header's checksum is wrong")
    return found


def _vdi(file: File) -> Found:
    found = Found("a VirtualBox disk image (VDI)", _CONVERT)
    version, header, kind = file.unpack("<III", 0x44)
    blocks_at, data_at = file.unpack("<II", 0x154)
    fits = version >> 16 == 1 and header >= 0x180 and 1 <= kind <= 4
    if not fits or not file.holds(blocks_at, 4) or data_at > file.size:
        return found._replace(doubt="its header is invalid")
    return found


def identify_sparse(file: File) -> Found:
    """A VMware disk image in one sparse file (the magic number is KDMV)."""
    found = Found("a VMware disk image (VMDK)", _CONVERT)
    version, _flags, capacity, grain, at, size = file.unpack("<IIQQQQ", 4)
    if not 1 <= version <= 3 or not capacity or grain & (grain - 1) or grain < 8:
        return found._replace(doubt="its header is invalid")
    if file.at(73, 4) != b"\n \r\n" or not file.holds(at * 512, size * 512):
        return found._replace(doubt="it was damaged in transfer, or is truncated")
    return found
