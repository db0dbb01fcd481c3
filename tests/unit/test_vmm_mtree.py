"""Memory maps that QEMU 7.2 printed; `*-booted` after the firmware had set up the ROM area."""

from pathlib import Path

import pytest

from pagecheck.vmm.qemu.mtree import RamRange, parse_mtree

MIB, GIB = 1 << 20, 1 << 30
TEXTS = Path(__file__).parent / "mtree"


def ranges(name: str, block: str = "mem0") -> list[tuple[int, int, int]]:
    found = parse_mtree((TEXTS / f"{name}.txt").read_text())
    return [(each.gpa, each.size, each.offset) for each in found if each.block == block]


LOW = (0, 0xC0000, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q35-256m", [LOW, (MIB, 255 * MIB, MIB)]),
        ("q35-3g", [LOW, (MIB, 2047 * MIB, MIB), (4 * GIB, GIB, 2 * GIB)]),
        ("q35-6g", [LOW, (MIB, 2047 * MIB, MIB), (4 * GIB, 4 * GIB, 2 * GIB)]),
        ("pc-6g", [LOW, (MIB, 3071 * MIB, MIB), (4 * GIB, 3 * GIB, 3 * GIB)]),
        ("microvm-256m", [(0, 0xF0000, 0), (MIB, 255 * MIB, MIB)]),
        ("microvm-6g", [(0, 0xF0000, 0), (MIB, 3071 * MIB, MIB), (4 * GIB, 3 * GIB, 3 * GIB)]),
        ("q35-256m-vga-booted", [(0, 0xA0000, 0), (0xC0000, 256 * MIB - 0xC0000, 0xC0000)]),
    ],
)
def test_ram_of_real_machines(name: str, expected: list[tuple[int, int, int]]) -> None:
    assert ranges(name) == expected


def test_two_blocks() -> None:
    assert ranges("dimm", "mem1") == [(4 * GIB, 128 * MIB, 0)]
    assert ranges("numa") == [LOW, (MIB, 255 * MIB, MIB)]
    assert ranges("numa", "mem1") == [(256 * MIB, 256 * MIB, 0)]


def test_roms_are_blocks_of_their_own() -> None:
    assert ranges("q35-256m", "pc.rom") == [(0xC0000, 0x20000, 0)]
    assert ranges("microvm-256m", "pc.bios")[0] == (0xF0000, 0x10000, 0)


VIEW = """FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000fff (prio 0, ram): wrong

FlatView #1
 AS "memory", root: system
 Root memory region: system
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(prio 0, ram): mem0", ("mem0", 0)),
        ("(prio -1, ram): mem0 @0000000000001000", ("mem0", 0x1000)),
        ("(prio 0, ram): mem0 @0000000000001000 KVM", ("mem0", 0x1000)),
        ("(prio 0, ram): mem0 KVM KVM", ("mem0", 0)),
        ("(prio 0, nv-ram): mem0", ("mem0", 0)),
        ("(prio 0, ram): /objects/mem0", ("mem0", 0)),
        ("(prio 0, ram): /rom@etc/acpi/tables", ("/rom@etc/acpi/tables", 0)),
        ("(prio 0, i/o): mem0", None),
        ("(prio 0, ramd): mem0", None),
    ],
)
def test_one_line(line: str, expected: tuple[str, int] | None) -> None:
    text = f"{VIEW}  0000000000002000-0000000000002fff {line}\r\n\r\n"
    found = parse_mtree(text)
    assert found == ([RamRange(0x2000, 0x1000, *expected)] if expected else [])


def test_neighbours_that_continue_each_other_are_one() -> None:
    def line(start: int, offset: int, name: str = "mem0") -> str:
        return f"  {start:016x}-{start + 0xFFF:016x} (prio 0, ram): {name} @{offset:016x}\n"

    text = VIEW + line(0, 0) + line(0x1000, 0x1000) + line(0x2000, 0x5000)
    text += line(0x3000, 0x6000, "mem1") + line(0x5000, 0x7000, "mem1")
    assert [(each.gpa, each.size) for each in parse_mtree(text)] == [
        (0, 0x2000),
        (0x2000, 0x1000),
        (0x3000, 0x1000),
        (0x5000, 0x1000),
    ]


def test_a_range_that_ends_before_it_begins_is_part_of_no_other() -> None:
    """Whoever asks refuses it."""
    text = VIEW + "  0000000000000000-0000000000000fff (prio 0, ram): mem0\n"
    text += "  0000000000001000-00000000000007ff (prio 0, ram): mem0 @0000000000001000\n"
    assert [(each.gpa, each.size) for each in parse_mtree(text)] == [(0, 0x1000), (0x1000, -0x800)]


def test_text_without_a_memory_map() -> None:
    assert parse_mtree("") == []
    assert parse_mtree("unknown command: 'info mtree'\r\n") == []
