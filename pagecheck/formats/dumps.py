"""Dumps of memory: ELF cores, kdump, LiME, AVML, Windows crash dumps. Guest RAM is in them, at
other offsets, in pieces, or compressed.

Source: elf(5); makedumpfile's diskdump_mod.h and IMPLEMENTATION; LiME's and AVML's own headers; the
DUMP_HEADER structures in QEMU's include/qemu/win_dump_defs.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.formats.found import Found

if TYPE_CHECKING:
    from pagecheck.formats.reading import File

SEGMENTS_MAX: Final = 4096
RANGES_MAX: Final = 256
_CORE: Final = 4
_LOAD: Final = 1
_NOTE: Final = 4
_NO_BITS: Final = 8
_PHNUM_ELSEWHERE: Final = 0xFFFF

_ELF_CORE: Final = "an ELF core"
_PMEMSAVE: Final = "QEMU's pmemsave writes raw RAM"
_AVML: Final = "avml-convert --format raw FILE FILE.raw converts it"


def identify(file: File) -> Found | None:
    """Which kind of dump it is, if any."""
    head = file.head
    if head.startswith(b"\x7fELF"):
        return _elf(file)
    if head.startswith(b"KDMV"):
        from pagecheck.formats.disks import identify_sparse

        return identify_sparse(file)
    if head.startswith((b"KDUMP   ", b"DISKDUMP")):
        return _kdump(file)
    if head.startswith(b"makedumpfile\0\0\0\0"):
        return _flattened(file)
    if head.startswith(b"EMiL"):
        return _lime(file)
    if head.startswith(b"AVML"):
        return _avml(file)
    if head.startswith((b"PAGEDU64", b"PAGEDUMP")):
        return _windows(file)
    return None


class _Segment(NamedTuple):
    kind: int
    offset: int
    physical: int
    size: int


class _Elf(NamedTuple):
    """The tables of an ELF file.

    Attributes:
        ends: where each of its parts ends in the file.
    """

    kind: int
    segments: list[_Segment]
    ends: list[int]


def _elf(file: File) -> Found | None:
    read = _read_elf(file)
    if read is None:
        return Found(_ELF_CORE, _PMEMSAVE, "its header is invalid")
    loads = [each for each in read.segments if each.kind == _LOAD and each.size]
    if read.kind == _CORE:
        found = Found(_core_name(file, read), _core_remedy(loads))
    else:
        found = Found("an ELF program or library", "give a file that holds guest RAM")
    end = max(read.ends)
    if end > file.size:
        return found._replace(doubt=f"its parts end at {end:#x}, past the end of the file")
    if not loads and read.kind == _CORE:
        return found._replace(doubt="it has no segment with memory")
    if not file.ends_at(end):
        return found._replace(doubt=f"its parts end at {end:#x}, and other data follows")
    return found


def _read_elf(file: File) -> _Elf | None:
    """The tables; None where sizes or offsets are invalid for an ELF file."""
    width, order, version = file.unpack("3B", 4)
    if width not in (1, 2) or order not in (1, 2) or version not in (0, 1):
        return None  # 0 is VirtualBox's
    byte_order = "<>"[order - 1]
    word = "I" if width == 1 else "Q"
    kind, _machine, _version = file.unpack(byte_order + "HHI", 16)
    _entry, segments_at, sections_at = file.unpack(byte_order + 3 * word, 24)
    rest = 24 + 3 * (4 if width == 1 else 8) + 4
    # The header's own size is not checked: QEMU writes 8 there.
    _size, segment, segments, section, sections, _names = file.unpack(byte_order + "6H", rest)
    if not 1 <= kind <= _CORE:
        return None
    if segments and segment != (32 if width == 1 else 56):
        return None
    if segments == _PHNUM_ELSEWHERE:  # Source: elf(5), PN_XNUM
        (segments,) = file.unpack(byte_order + "I", sections_at + (28 if width == 1 else 44))
    ends = [rest + 12]
    if sections_at:
        ends.append(sections_at + section * max(sections, 1))
        places = [sections_at + n * section for n in range(min(sections, SEGMENTS_MAX))]
        ends += [_section_end(file, byte_order, width, at) for at in places]
    if not segments > 0 or not file.holds(segments_at, segments * segment):
        return None if kind == _CORE else _Elf(kind, [], ends)
    ends.append(segments_at + segments * segment)
    found = [
        _segment(file, byte_order, width, segments_at + n * segment)
        for n in range(min(segments, SEGMENTS_MAX))
    ]
    ends += [each.offset + each.size for each in found if each.size]
    return _Elf(kind, found, ends)


def _section_end(file: File, byte_order: str, width: int, at: int) -> int:
    """Where a section's bytes end in the file; 0 where it has none there."""
    kind, *_rest, offset, size = file.unpack(byte_order + ("4x5I" if width == 1 else "4xI4Q"), at)
    return 0 if kind in (0, _NO_BITS) else offset + size


def _segment(file: File, byte_order: str, width: int, at: int) -> _Segment:
    if width == 1:
        kind, offset, _virtual, physical, size = file.unpack(byte_order + "5I", at)
    else:
        kind, _flags, offset, _virtual, physical, size = file.unpack(byte_order + "II4Q", at)
    return _Segment(kind, offset, physical, size)


def _core_name(file: File, read: _Elf) -> str:
    notes = [each for each in read.segments if each.kind == _NOTE]
    if notes and b"VBCORE" in file.at(notes[0].offset, 64):
        return "a VirtualBox core (ELF)"
    return _ELF_CORE


def _core_remedy(loads: list[_Segment]) -> str:
    if not loads:
        return _PMEMSAVE
    most = max(loads, key=lambda each: each.size)
    where = f"the largest of its {len(loads)} pieces of memory, at physical {most.physical:#x}"
    if most.offset % 4096 == 0 and most.size % 4096 == 0:
        scan = f"pagecheck scan --format raw --offset {most.offset} --length {most.size} FILE"
        return f"{scan} scans {where}; {_PMEMSAVE}"
    cut = f"iflag=skip_bytes,count_bytes skip={most.offset} count={most.size}"
    return f"dd if=FILE of=FILE.raw bs=1M conv=sparse {cut} extracts {where}; {_PMEMSAVE}"


def _kdump(file: File) -> Found:
    found = Found(
        "a kdump-compressed dump",
        f"crash and drgn read it directly; {_PMEMSAVE}, and dump-guest-memory an ELF core",
    )
    for byte_order in "<>":
        (version,) = file.unpack(byte_order + "i", 8)
        block, sub_header, bitmap = file.unpack(byte_order + "iii", 428)
        if 0 < version < 16 and block in (1 << n for n in range(9, 17)):
            break
    else:
        return found._replace(doubt="its version or block size is invalid")
    at = block * (1 + sub_header + bitmap)
    offset, size, flags = file.unpack(byte_order + "QII", at)
    fits = sub_header > 0 and bitmap > 0 and file.holds(at, 24) and file.holds(offset, size)
    if not fits or size > block or flags & ~0x3F or offset < at:
        return found._replace(doubt="its first page lies outside the file")
    return found


def _flattened(file: File) -> Found:
    found = Found(
        "a flattened kdump (makedumpfile)",
        f"makedumpfile -R FILE.kdump <FILE converts it for crash and drgn; {_PMEMSAVE}",
    )
    kind, version = file.unpack(">qq", 16)
    if (kind, version) != (1, 1):
        return found._replace(doubt="its type or version is not known")
    at = 4096
    for _ in range(RANGES_MAX):
        offset, size = file.unpack(">qq", at)
        if offset == -1:
            break
        at += 16 + size
        if offset < 0 or size <= 0 or not file.holds(0, at):
            return found._replace(doubt=f"none of its pieces ends at {at:#x}")
    return found


def _lime(file: File) -> Found:
    at = ranges = 0
    doubt = None
    while ranges < RANGES_MAX and not (ranges and file.ends_at(at)):
        magic, version, start, end, reserved = file.unpack("<4sIQQQ", at)
        at += 32 + end + 1 - start
        fits = magic == b"EMiL" and version == 1 and start <= end and not reserved
        if not fits or not file.holds(0, at):
            doubt = f"its range {ranges} is invalid, or ends past the end of the file"
            break
        ranges += 1
    return Found("a LiME dump", _AVML, doubt)


def _avml(file: File) -> Found:
    found = Found("an AVML dump", _AVML)
    _magic, version, start, end, reserved = file.unpack("<4sIQQQ", 0)
    if version != 2 or start >= end or reserved or file.at(32, 10) != b"\xff\6\0\0sNaPpY":
        return found._replace(doubt="no compressed range follows its header")
    return found


def _windows(file: File) -> Found:
    found = Found(
        "a Windows crash dump",
        f"volatility3 (layerwriter.LayerWriter) converts it to raw; {_PMEMSAVE}",
    )
    is_64 = file.head.startswith(b"PAGEDU64")
    (machine,) = file.unpack("<I", 0x30 if is_64 else 0x20)
    if machine not in ((0x8664, 0xAA64, 0x200) if is_64 else (0x14C, 0x1C0, 0x1C4)):
        return found._replace(doubt="its machine type is not known")
    if not is_64:
        runs, pages = file.unpack("<II", 0x64)
        counts = file.unpack(f"<{2 * min(runs, 80)}I", 0x6C)[1::2]
        whole = 0x1000 + pages * 4096
    else:
        runs, _pad, pages = file.unpack("<IIQ", 0x88)
        counts = file.unpack(f"<{2 * min(runs, 42)}Q", 0x98)[1::2]
        whole = 0x2000 + pages * 4096
    (kind,) = file.unpack("<I", 0xF98 if is_64 else 0xF88)
    if kind == 1 and (sum(counts) != pages or not pages or not file.holds(0, whole)):
        return found._replace(doubt="its pages are not those of the file")
    if not 1 <= kind <= 6:
        return found._replace(doubt="its kind is not known")
    return found
