"""Compressed data: a stream's beginning is decoded or its blocks are walked, and its end, or a few
samples in between, must be compressed data too.

Source: RFC 1950 and 1952 (zlib, gzip), RFC 8878 (zstd), the format documents of xz, lz4 and lzop.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Final

from pagecheck.formats.found import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.formats.reading import File

INPUT_BYTES: Final = 64 << 10
OUTPUT_BYTES: Final = 8 << 20
BZIP2_INPUT_BYTES: Final = 1 << 20  # a whole block of 900 kB, which its checksum verifies
BLOCKS: Final = 64

_END_UNKNOWN: Final = -1  # the part that was read is valid, and the stream continues


class _Invalid(Exception):
    """What is inconsistent."""


class _Coincidence(_Invalid):
    """Only two or three bytes match: any RAM could begin with them."""


def identify(file: File) -> Found | None:
    """What kind of stream it is; None where it does not even have a stream's magic number."""
    for magic, name, command, check in _KINDS:
        if file.head.startswith(magic):
            found = Found(name, f"{command} FILE >FILE.raw")
            try:
                _require_stream_throughout(file, check(file), magic)
            except _Coincidence:
                return None
            except _Invalid as error:
                return None if magic in _WEAK else found._replace(doubt=str(error))
            return found
    return None


def _require_stream_throughout(file: File, end: int, magic: bytes) -> None:
    if end == _END_UNKNOWN:
        if file.has_zero_pages():
            raise _Invalid("there are pages of zeros further on")
    elif not file.ends_at(end) and file.at(end, len(magic)) != magic:
        raise _Invalid(f"the stream ends at {end:#x}, and other data follows")


def _inflated(file: File, bits: int) -> int:
    """Decodes deflate data; zlib verifies the checksum where the stream ends in the part read.

    Returns:
        Where the stream ends, or _END_UNKNOWN.
    """
    decoder = zlib.decompressobj(bits)
    left, got = file.at(0, INPUT_BYTES), 0
    taken = len(left)
    try:
        while left and not decoder.eof and got < OUTPUT_BYTES:
            got += len(decoder.decompress(left, 1 << 20))
            left = decoder.unconsumed_tail
    except zlib.error as error:
        raise _Invalid(f"it cannot be decompressed ({error})") from error
    if decoder.eof:
        return taken - len(decoder.unused_data)
    if file.size <= INPUT_BYTES and not left:
        raise _Invalid("it is truncated")
    return _END_UNKNOWN


_UNDECODABLE: Final = "it cannot be decompressed"
_CHECKSUM: Final = "its header's checksum is wrong"


def _gzip(file: File) -> int:
    return _inflated(file, 31)


def _zlib(file: File) -> int:
    if int.from_bytes(file.head[:2], "big") % 31:
        raise _Invalid("its header's check bits are wrong")
    return _inflated(file, 15)


def _bzip2(file: File) -> int:
    if file.head[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
        raise _Coincidence
    decoder = bz2.BZ2Decompressor()
    try:
        got = decoder.decompress(data := file.at(0, BZIP2_INPUT_BYTES), 1)
    except (OSError, ValueError) as error:
        raise _Invalid(_UNDECODABLE) from error
    if decoder.eof:
        return len(data) - len(decoder.unused_data)
    if not got:
        raise _Invalid(_UNDECODABLE)
    return _END_UNKNOWN


def _old_lzma(file: File) -> int:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=1 << 28)
    try:
        data = file.at(0, INPUT_BYTES)
        got = len(decoder.decompress(data, OUTPUT_BYTES))
    except lzma.LZMAError as error:
        raise _Invalid(_UNDECODABLE) from error
    if decoder.eof:
        return len(data) - len(decoder.unused_data)
    if got < 4096:
        raise _Invalid(_UNDECODABLE)
    return _END_UNKNOWN


def _xz(file: File) -> int:
    flags = file.head[6:8]
    if zlib.crc32(flags) != int.from_bytes(file.head[8:12], "little"):
        raise _Invalid(_CHECKSUM)
    tail = file.at(max(0, file.size - INPUT_BYTES), INPUT_BYTES).rstrip(b"\0")
    footer = tail[-12:]
    fits = footer[8:] == flags + b"YZ"
    if not fits or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        raise _Invalid("no footer is at its end")
    return file.size


def _zstd(file: File) -> int:
    descriptor = file.head[4]
    if descriptor & 0x08:
        raise _Invalid("a reserved bit is set")
    single, content = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    at += single if content == 0 else 1 << content
    for _ in range(BLOCKS):
        header = int.from_bytes(file.at(at, 3), "little")
        kind, size = header >> 1 & 3, header >> 3
        if kind == 3 or size > 128 << 10 or not file.holds(at, 3):
            raise _Invalid(f"no block is at {at:#x}")
        at += 3 + (1 if kind == 1 else size)
        if not file.holds(0, at):
            raise _Invalid("it is truncated")
        if header & 1:
            return at + 4 * (descriptor >> 2 & 1)
    return _END_UNKNOWN


def _lz4(file: File) -> int:
    flags, sizes = file.head[4], file.head[5]
    length = 2 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
    if flags >> 6 != 1 or flags & 2 or sizes & 0x8F or sizes >> 4 < 4:
        raise _Invalid("its header's flags are wrong")
    if _xxh32(file.head[4 : 4 + length]) >> 8 & 0xFF != file.head[4 + length]:
        raise _Invalid(_CHECKSUM)
    at = 5 + length
    for _ in range(BLOCKS):
        (word,) = file.unpack("<I", at)
        at += 4
        if word == 0:
            return at + 4 * (flags >> 2 & 1)
        at += (word & 0x7FFFFFFF) + 4 * (flags >> 4 & 1)
        if word & 0x7FFFFFFF > 1 << (8 + 2 * (sizes >> 4)) or not file.holds(0, at):
            raise _Invalid(f"no block ends at {at:#x}")
    return _END_UNKNOWN


def _lzop(file: File) -> int:
    version, _library, _needed, method = file.unpack(">HHHB", 9)
    (flags,) = file.unpack(">I", 17)
    at = 21 + (4 if flags & 0x800 else 0) + 12  # mode and two words of time
    at += 1 + file.unpack("B", at)[0]
    checksum = zlib.crc32 if flags & 0x1000 else zlib.adler32
    if version < 0x940 or method not in (1, 2, 3):
        raise _Invalid("its version or method is not known")
    if checksum(file.at(9, at - 9)) != file.unpack(">I", at)[0]:
        raise _Invalid(_CHECKSUM)
    return _END_UNKNOWN


_P32: Final = (2654435761, 2246822519, 3266489917, 668265263, 374761393)


def _xxh32(data: bytes) -> int:
    """xxHash of fewer than 16 bytes with seed 0. Source: xxHash's specification, XXH32."""

    def rotated(value: int, by: int) -> int:
        value &= 0xFFFFFFFF
        return value << by & 0xFFFFFFFF | value >> (32 - by)

    value = _P32[4] + len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little")
        value = rotated(value + word * _P32[2], 17) * _P32[3]
    for byte in data[whole:]:
        value = rotated(value + byte * _P32[4], 11) * _P32[0]
    value &= 0xFFFFFFFF
    value = (value ^ value >> 15) * _P32[1] & 0xFFFFFFFF
    value = (value ^ value >> 13) * _P32[2] & 0xFFFFFFFF
    return value ^ value >> 16


_WEAK: Final = (b"]\0\0", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_KINDS: Final[tuple[tuple[bytes, str, str, Callable[[File], int]], ...]] = (
    (b"\x1f\x8b\x08", "gzip-compressed data", "gzip -dc", _gzip),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data", "zstd -dc", _zstd),
    (b"\xfd7zXZ\0", "xz-compressed data", "xz -dc", _xz),
    (b"\x04\x22\x4d\x18", "lz4-compressed data", "lz4 -dc", _lz4),
    (b"BZh", "bzip2-compressed data", "bzip2 -dc", _bzip2),
    (b"\x89LZO\0\r\n\x1a\n", "lzop-compressed data", "lzop -dc", _lzop),
    (b"]\0\0", "lzma-compressed data", "xz -dc --format=lzma", _old_lzma),
    (b"x\x01", "zlib-compressed data", "zlib-flate -uncompress <", _zlib),
    (b"x\x5e", "zlib-compressed data", "zlib-flate -uncompress <", _zlib),
    (b"x\x9c", "zlib-compressed data", "zlib-flate -uncompress <", _zlib),
    (b"x\xda", "zlib-compressed data", "zlib-flate -uncompress <", _zlib),
)
