"""Archives and descriptions in which, or beside which, guest RAM may be.

Source: POSIX's pax (ustar); PKWARE's APPNOTE; 7-Zip's 7zFormat.txt; Proxmox's vma_spec.txt; Cloud
Hypervisor's page on snapshots.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Final

from pagecheck.formats.found import Found

if TYPE_CHECKING:
    from pagecheck.formats.reading import File

JSON_BYTES_MAX: Final = 16 << 20
_ZIP_END: Final = b"PK\5\6"


def identify(file: File) -> Found | None:
    """Which kind of archive it is, if any."""
    head = file.head
    if head[257:262] == b"ustar":
        return _tar(file)
    if head.startswith(b"PK\3\4"):
        return _zip(file)
    if head.startswith(b"7z\xbc\xaf\x27\x1c"):
        return _seven_zip(file)
    if head.startswith(b"VMA\0"):
        return _vma(file)
    if head.startswith(b"{"):
        return _json(file)
    return None


def _tar(file: File) -> Found | None:
    found = Found("a tar archive", "tar -xSf FILE unpacks it")
    size = _member_size(file, 0)
    if size is None:
        return None  # the five letters are a coincidence
    after = 512 + -(-size // 512) * 512
    if (
        file.ends_at(after)
        or not any(file.at(after, 1024))
        or _member_size(file, after) is not None
    ):
        return found
    return found._replace(doubt=f"no member follows at {after:#x}")


def _member_size(file: File, at: int) -> int | None:
    """Bytes of the member whose header is there; None where the header's checksum is wrong."""
    header = file.at(at, 512)
    text = header[148:156].strip(b" \0")
    if len(header) < 512 or not text.isdigit() or header[257:262] != b"ustar":
        return None
    try:
        if sum(header[:148]) + 8 * 32 + sum(header[156:]) != int(text, 8):
            return None
        if header[124] & 0x80:  # a size of more than eleven octal digits, in binary
            return int.from_bytes(header[125:136], "big")
        return int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None


def _zip(file: File) -> Found:
    found = Found("a zip archive", "unzip FILE unpacks it")
    tail = file.at(max(0, file.size - (128 << 10)), 128 << 10)
    at = tail.rfind(_ZIP_END)
    if at < 0:
        return found._replace(doubt="no directory is at its end")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    place = int.from_bytes(tail[at + 16 : at + 20], "little")
    large = 0xFFFFFFFF in (size, place)  # then they are in another record
    if not large and file.at(place, 4) != b"PK\1\2":
        return found._replace(doubt="its directory is not where its end says")
    return found


def _seven_zip(file: File) -> Found:
    found = Found("a 7z archive", "7z x FILE unpacks it")
    (checksum,) = file.unpack("<I", 8)
    if zlib.crc32(file.at(12, 20)) != checksum:
        return found._replace(doubt="its header's checksum is wrong")
    return found


def _vma(file: File) -> Found:
    found = Found("a Proxmox backup (VMA)", "vma extract FILE FOLDER unpacks it")
    (version,) = file.unpack(">I", 4)
    (size,) = file.unpack(">I", 56)
    if version != 1 or not 12288 <= size <= 1 << 20 or not file.holds(0, size):
        return found._replace(doubt="its header is invalid")
    import hashlib

    header = bytearray(file.at(0, size))
    stored, header[32:48] = header[32:48], bytes(16)
    if hashlib.md5(header, usedforsecurity=False).digest() != stored:
        return found._replace(doubt="its header's checksum is wrong")
    return found


def _json(file: File) -> Found | None:
    if file.size > JSON_BYTES_MAX:
        return None
    try:
        json.loads(file.at(0, file.size).rstrip(b"\0"))
    except (ValueError, RecursionError):
        return None
    return Found(
        "a JSON text", "the RAM of a Cloud Hypervisor snapshot is in memory-ranges beside it"
    )
