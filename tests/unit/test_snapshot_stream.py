"""The migration stream, read by a parser of its own, written after QEMU's ram_load()."""

from __future__ import annotations

import io
import struct

import pytest

from pagecheck.errors import PeerError
from pagecheck.snapshot.stream import state_stream
from pagecheck.vmm.qemu.blocks import SavedBlock
from pagecheck.vmm.qemu.state import SavedState

HEADER = b"QEVM\0\0\0\x03"
DEVICES = HEADER + b"\x04" + b"a device's own bytes" + b"\x7e\0\0\0\x09" + b"\0"
PAGE = b"P" * 4096
ZERO = bytes(4096)


class Reader:
    def __init__(self, raw: bytes) -> None:
        self.file = io.BytesIO(raw)

    def take(self, count: int) -> bytes:
        found = self.file.read(count)
        assert len(found) == count, "the stream ends early"
        return found

    def number(self, letter: str) -> int:
        return int(struct.unpack(f">{letter}", self.take(struct.calcsize(f">{letter}")))[0])

    def text(self, letter: str = "B") -> str:
        return self.take(self.number(letter)).decode()


def ram_of(reader: Reader) -> dict[str, bytearray]:
    """Reads a "ram" section as a QEMU does whose blocks are full of other bytes."""
    assert (reader.number("B"), reader.number("I"), reader.text()) == (1, 2, "ram")
    assert (reader.number("I"), reader.number("I")) == (0, 4)
    first = reader.number("Q")
    assert first & 0xFFF == 0x04
    total, blocks = first & ~0xFFF, {}
    while total:
        name, size = reader.text(), reader.number("Q")
        blocks[name] = bytearray(b"?" * size)
        total -= size
    assert reader.number("Q") == 0x10
    assert (reader.number("B"), reader.number("I")) == (0x7E, 2)
    assert (reader.number("B"), reader.number("I")) == (3, 2)
    block = None
    while (word := reader.number("Q")) & 0xFFF != 0x10:
        flags, offset = word & 0xFFF, word & ~0xFFF
        if not flags & 0x20:
            block = blocks[reader.text()]
        assert block is not None
        assert offset + 4096 <= len(block)
        if flags & 0x08:
            block[offset : offset + 4096] = reader.take(4096)
        else:
            assert flags & 0x02
            assert reader.number("B") == 0
            block[offset : offset + 4096] = ZERO
    assert (reader.number("B"), reader.number("I")) == (0x7E, 2)
    return blocks


def stream(*blocks: SavedBlock, machine: str = "pc-q35-7.2", bits: int = 0) -> Reader:
    return Reader(b"".join(state_stream(SavedState(DEVICES, blocks), machine, bits)))


def test_without_small_blocks_only_the_configuration_is_added() -> None:
    reader = stream()
    assert reader.take(8) == HEADER
    assert (reader.number("B"), reader.text("I")) == (7, "pc-q35-7.2")
    assert reader.take(len(DEVICES) - 8) == DEVICES[8:]
    assert (reader.number("B"), reader.text("I")) == (6, "{}")
    assert not reader.file.read()


def test_the_size_of_a_guest_page_where_the_machine_decides_it() -> None:
    reader = stream(machine="virt-7.2", bits=12)
    reader.take(8)
    assert (reader.number("B"), reader.text("I")) == (7, "virt-7.2")
    assert (reader.number("B"), reader.text()) == (5, "configuration/target-page-bits")
    assert (reader.number("I"), reader.number("I")) == (1, 12)
    assert reader.take(4)[:1] == b"\x04"


def test_small_blocks_are_whole_whatever_was_there_before() -> None:
    video = SavedBlock(
        "0000:00:02.0/vga.vram", 1 << 20, ((4096, PAGE + ZERO + PAGE), (0xFF000, PAGE))
    )
    tables = SavedBlock("/rom@etc/acpi/tables", 0x20000, ())
    rom = SavedBlock("pc.bios", 8192, ((0, PAGE), (4096, PAGE)))
    reader = stream(video, tables, rom)
    reader.take(8)
    reader.take(1 + 4 + len("pc-q35-7.2"))
    found = ram_of(reader)
    assert list(found) == [video.name, tables.name, rom.name]
    for block in (video, tables, rom):
        wanted = bytearray(block.size)
        for offset, content in block.runs:
            wanted[offset : offset + len(content)] = content
        assert found[block.name] == wanted
    assert reader.take(len(DEVICES) - 8) == DEVICES[8:]


def test_a_large_block_comes_in_pieces() -> None:
    runs = tuple((at, PAGE * 256) for at in range(0, 4 << 20, 1 << 20))
    saved = SavedState(DEVICES, (SavedBlock("vga.vram", 4 << 20, runs),))
    pieces = list(state_stream(saved, "pc"))
    assert max(map(len, pieces)) < 2 << 20
    reader = Reader(b"".join(pieces))
    reader.take(8 + 1 + 4 + 2)
    assert ram_of(reader)["vga.vram"] == PAGE * 1024


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (SavedBlock("x" * 256, 4096, ()), "has 256 bytes"),
        (SavedBlock("", 4096, ()), "has 0 bytes"),
        (SavedBlock("rom", 4096, ((0, PAGE + PAGE),)), "not in order"),
        (SavedBlock("rom", 4096, ((8192, PAGE),)), "not in order"),
        (SavedBlock("rom", 8192, ((4096, PAGE), (0, PAGE))), "not in order"),
        (SavedBlock("rom", 8192, ((0, PAGE), (0, PAGE))), "not in order"),
        (SavedBlock("rom", 8192, ((1, PAGE),)), "not in order"),
        (SavedBlock("rom", 8192, ((0, b"short"),)), "not in order"),
        (SavedBlock("rom", 5000, ()), "not in order"),
    ],
)
def test_what_cannot_be_put_into_a_stream(block: SavedBlock, why: str) -> None:
    with pytest.raises(PeerError, match=why):
        stream(block)


def test_two_blocks_of_one_name() -> None:
    with pytest.raises(PeerError, match="two RAM blocks"):
        stream(SavedBlock("rom", 4096, ()), SavedBlock("rom", 8192, ()))


def test_a_machine_without_a_name() -> None:
    with pytest.raises(PeerError, match="has 0 bytes"):
        stream(machine="")
