"""A migration stream made of what a running QEMU saved of itself: pure bytes, nothing is asked.

Facts: `xen-save-devices-state` writes the sections of all devices between the header of a migration
stream and its end, without the configuration that a loading QEMU compares its machine with, and
without RAM. A "ram" section may list any of the RAM blocks: the others stay as they are. Danger: a
page that is left out is what the loading QEMU made of it, such as another version's ROM.
Decision: a block that is listed is sent whole, zero pages too, as QEMU itself does.

Source: QEMU, migration/savevm.c (stream version 3), migration/ram.c (section version 4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from pagecheck.errors import PeerError
from pagecheck.vmm.qemu.blocks import PAGE_BYTES, SavedBlock
from pagecheck.vmm.qemu.state import DEVICES_BEGIN, SavedState

_END, _START, _SECTION_END = 0x00, 0x01, 0x03
_SUBSECTION, _DESCRIPTION, _CONFIGURATION, _FOOTER = 0x05, 0x06, 0x07, 0x7E
_ZERO, _MEM_SIZE, _PAGE, _EOS, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20

_RAM_ID: Final = 2  # of the section; it ends before any other begins
_RAM_VERSION: Final = 4
_NAME_MAX: Final = 255  # bytes
_PAGE_BITS_NAME: Final = b"configuration/target-page-bits"
_PIECE_BYTES: Final = 1 << 20


def state_stream(saved: SavedState, machine_type: str, page_bits: int = 0) -> Iterator[bytes]:
    """What a QEMU that was started with `-incoming` loads.

    Args:
        saved: devices and small RAM blocks, of one moment.
        machine_type: the name of the machine's type, such as "pc-q35-7.2".
        page_bits: of a guest page, where the architecture leaves it to the machine (Arm); else 0.

    Yields:
        The stream, in pieces of at most some MiB.

    Raises:
        PeerError: what QEMU saved cannot be put into a stream.
    """
    yield DEVICES_BEGIN
    yield _configuration(machine_type, page_bits)
    if saved.blocks:
        yield _ram_start(saved.blocks)
        yield from _ram_pages(saved.blocks)
    yield saved.devices[len(DEVICES_BEGIN) :]
    yield struct.pack(">BI", _DESCRIPTION, 2) + b"{}"


def _configuration(machine_type: str, page_bits: int) -> bytes:
    name = _name(machine_type)
    found = struct.pack(">BI", _CONFIGURATION, len(name)) + name
    if page_bits:
        found += struct.pack(">BB", _SUBSECTION, len(_PAGE_BITS_NAME)) + _PAGE_BITS_NAME
        found += struct.pack(">II", 1, page_bits)
    return found


def _ram_start(blocks: Sequence[SavedBlock]) -> bytes:
    total = sum(each.size for each in blocks)
    names = [_name(each.name) for each in blocks]
    if len(set(names)) != len(names):
        raise PeerError("QEMU has two RAM blocks of one name")
    head = struct.pack(">BIB", _START, _RAM_ID, 3) + b"ram" + struct.pack(">II", 0, _RAM_VERSION)
    listed = b"".join(
        struct.pack(">B", len(name)) + name + struct.pack(">Q", each.size)
        for name, each in zip(names, blocks, strict=True)
    )
    return head + struct.pack(">Q", total | _MEM_SIZE) + listed + _section_end()


def _section_end() -> bytes:
    return struct.pack(">QBI", _EOS, _FOOTER, _RAM_ID)


def _ram_pages(blocks: Sequence[SavedBlock]) -> Iterator[bytes]:
    piece = bytearray(struct.pack(">BI", _SECTION_END, _RAM_ID))
    for block in blocks:
        name = _name(block.name)
        beside = struct.pack(">B", len(name)) + name
        more = 0
        for offset, page in _pages(block):
            flags = (_PAGE if page else _ZERO) | more
            piece += struct.pack(">Q", offset | flags) + beside + (page or b"\0")
            beside, more = b"", _CONTINUE
            if len(piece) >= _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece + _section_end())


def _pages(block: SavedBlock) -> Iterator[tuple[int, bytes]]:
    """All of its pages in order; an empty one is zero."""
    at = 0
    for begin, content in (*block.runs, (block.size, b"")):
        if not at <= begin <= block.size or begin % PAGE_BYTES or len(content) % PAGE_BYTES:
            raise PeerError(
                f"RAM block {block.name!r}: its pages are not in order, or behind its end"
            )
        yield from ((offset, b"") for offset in range(at, begin, PAGE_BYTES))
        for offset in range(0, len(content), PAGE_BYTES):
            page = content[offset : offset + PAGE_BYTES]
            yield begin + offset, page if page.count(0) != PAGE_BYTES else b""
        at = begin + len(content)


def _name(text: str) -> bytes:
    name = text.encode(errors="surrogateescape")
    if not 0 < len(name) <= _NAME_MAX:
        raise PeerError(f"QEMU's name {text[:40]!r} has {len(name)} bytes; 1 to {_NAME_MAX} can be")
    return name
