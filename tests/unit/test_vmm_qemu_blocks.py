"""QEMU's small RAM blocks: how they are listed, and found in a process, which is our own here."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.process.maps import parse_maps
from pagecheck.vmm.process.resident import read_resident
from pagecheck.vmm.qemu.blocks import RamBlock, SmallBlocks, ram_blocks
from pagecheck.vmm.qemu.objects import find_structures

PAGE = mmap.PAGESIZE
HEAD_7_2 = (
    "              Block Name    PSize              Offset               Used              Total"
)
LIST_7_2 = f"""{HEAD_7_2}
                  pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000
    /rom@etc/acpi/tables    4 KiB  0x00000000050c0000 0x0000000000020000 0x0000000000200000
                          2 MiB  0x0000000006000000 0x0000000000200000 0x0000000000200000
"""
LIST_10 = f"""{HEAD_7_2}                HVA  RO
    0000:00:03.0 BAR 0 mmaps[0]    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 \
0x00007f923fe00000  rw
"""


class Qemu:
    """In place of a monitor; the process is ours."""

    def __init__(self, **said: str) -> None:
        self.name = "qmp:x"
        self.peer_pid = os.getpid()
        self.said = {key.replace("_", " "): value for key, value in said.items()}

    def execute(self, _command: str, **arguments: Any) -> Any:
        line = arguments["command-line"]
        return self.said[line.partition(" 0x")[0]]


class Memory:
    """A guest's RAM and a small block with one page in use, as a QEMU of ours has them."""

    def __init__(self) -> None:
        self.ram, self.small = mmap.mmap(-1, 4 * PAGE), mmap.mmap(-1, 8 * PAGE, mmap.MAP_PRIVATE)
        self.small[2 * PAGE : 3 * PAGE] = b"v" * PAGE
        self.ram_at, self.small_at = (
            ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (self.ram, self.small)
        )

    def qemu(self, *more: str, at: int | None = None, ram_at: int | None = None) -> Qemu:
        small_at = self.small_at if at is None else at
        space = 'FlatView #0\n AS "memory", root: system\n'
        return Qemu(
            info_ramblock="\n".join(
                [
                    "Block Name ... HVA RO",
                    line("mem0", 0, 4 * PAGE, self.ram_at),
                    line("vga.vram", 4 * PAGE, 8 * PAGE, small_at),
                    *more,
                ]
            ),
            gpa2hva=f"Host virtual address for 0x0 (mem0) is {ram_at or self.ram_at:#x}\r\n",
            **{"info_mtree_-f": f"{space}  0-{4 * PAGE - 1:x} (prio 0, ram): mem0\n"},
        )


def line(name: str, offset: int, size: int, at: int) -> str:
    shown = f"  {name}   4 KiB  {offset:#018x} {size:#018x} {size:#018x}"
    return f"{shown} {at:#018x}  rw" if at >= 0 else shown


@contextmanager
def small_blocks(qemu: Qemu) -> Iterator[SmallBlocks]:
    with SmallBlocks(qemu, {"mem0"}) as blocks:  # type: ignore[arg-type]
        yield blocks


def test_the_list_of_an_old_and_of_a_new_qemu() -> None:
    old = ram_blocks(Qemu(info_ramblock=LIST_7_2))  # type: ignore[arg-type]
    assert old == [
        RamBlock("pc.ram", 0, 0x4000000, 0x4000000, 0),
        RamBlock("/rom@etc/acpi/tables", 0x50C0000, 0x20000, 0x200000, 0),
        RamBlock("", 0x6000000, 0x200000, 0x200000, 0),
    ]
    (new,) = ram_blocks(Qemu(info_ramblock=LIST_10.replace("\n", "\r\n")))  # type: ignore[arg-type]
    assert (new.name, new.address) == ("0000:00:03.0 BAR 0 mmaps[0]", 0x7F923FE00000)


@pytest.mark.parametrize(
    "said",
    [
        "",
        HEAD_7_2,
        f"{HEAD_7_2}\nof a later QEMU",
        f"{HEAD_7_2}\nrw",
        f"{HEAD_7_2}\n0x1 rw",
        "\n\n",
    ],
)
def test_a_list_that_is_none(said: str) -> None:
    with pytest.raises(PeerError, match=r"^qmp:x: 'info ramblock' "):
        ram_blocks(Qemu(info_ramblock=said))  # type: ignore[arg-type]


def test_a_block_is_read_where_something_is_in_it() -> None:
    memory = Memory()
    with small_blocks(memory.qemu()) as blocks:
        (block,) = blocks.read()
    assert block == ("vga.vram", 8 * PAGE, ((2 * PAGE, b"v" * PAGE),))


def test_a_block_that_a_file_is_behind_is_read_whole() -> None:
    memory = Memory()
    shared = mmap.mmap(-1, 8 * PAGE)  # a file of the kernel's own
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    with small_blocks(memory.qemu(at=address)) as blocks:
        (block,) = blocks.read()
    assert block.runs == ((0, bytes(8 * PAGE)),)


def test_nothing_is_read_where_files_hold_all() -> None:
    memory = Memory()
    with SmallBlocks(memory.qemu(), {"mem0", "vga.vram"}) as blocks:  # type: ignore[arg-type]
        assert blocks.read() == ()


def test_a_block_that_comes_or_goes() -> None:
    memory = Memory()
    qemu = memory.qemu()
    with small_blocks(qemu) as blocks:
        qemu.said["info ramblock"] += "\n" + line("new", 0x100000, PAGE, memory.small_at)
        with pytest.raises(SourceError, match="came or went meanwhile; try again"):
            blocks.read()


def test_a_block_that_is_not_where_it_is_said_to_be() -> None:
    memory = Memory()
    for at in (PAGE, memory.small_at + 1):
        with pytest.raises(SourceError, match=r"block vga\.vram is not found in QEMU's memory"):
            SmallBlocks(memory.qemu(at=at), {"mem0"})  # type: ignore[arg-type]


def test_a_process_that_is_not_qemu() -> None:
    memory = Memory()
    with pytest.raises(SourceError, match="mem0 is not found where QEMU says"):
        SmallBlocks(memory.qemu(ram_at=PAGE), {"mem0"})  # type: ignore[arg-type]
    unseen = memory.qemu()
    unseen.peer_pid = 0
    with pytest.raises(SourceError, match="cannot be seen from here"):
        SmallBlocks(unseen, {"mem0"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (line("vga.vram", 0x100000, PAGE, PAGE), "lists one name twice"),
        (line("odd", 0x100000, 100, PAGE), "block odd has 0x64 bytes"),
        (line("huge", 0x100000, 8 << 30, PAGE), r"huge \(8192 MiB\) .* too large"),
    ],
)
def test_blocks_that_cannot_be_saved(more: str, why: str) -> None:
    with pytest.raises((PeerError, SourceError), match=why):
        SmallBlocks(Memory().qemu(more), {"mem0"})  # type: ignore[arg-type]


GUARD_INSTALL = 102  # MADV_GUARD_INSTALL; Linux, include/uapi/asm-generic/mman-common.h


@pytest.fixture
def own() -> Iterator[tuple[int, int]]:
    fds = os.open("/proc/self/pagemap", os.O_RDONLY), os.open("/proc/self/mem", os.O_RDONLY)
    yield fds
    for fd in fds:
        os.close(fd)


def structure(host: int, numbers: tuple[int, int, int], name: bytes) -> mmap.mmap:
    """A mapping with one that lies as in QEMU 7.2."""
    made = mmap.mmap(-1, 3 * PAGE, mmap.MAP_PRIVATE)
    text = struct.pack("=QQQQQQI", host, 0, *numbers, 0x5555, 1) + name + bytes(8)
    made[2 * PAGE - 50 : 2 * PAGE - 50 + len(text)] = text  # over the edge of two pages
    return made


def test_structures_are_found_by_all_that_is_listed(own: tuple[int, int]) -> None:
    numbers = 0x7E5700000000, 0x20000, 0x200000
    kept = [structure(0x7F0000000000, numbers, b"/rom@etc/acpi/tables\0")]

    def found(name: str, values: tuple[int, int, int] = numbers) -> dict[str, int]:
        with open("/proc/self/maps") as maps:
            return find_structures(*own, parse_maps(maps.read()), {name: values})

    assert found("/rom@etc/acpi/tables") == {"/rom@etc/acpi/tables": 0x7F0000000000}
    assert found("/rom@etc/acpi") == {}
    assert found("/rom@etc/acpi/tables", (numbers[0], 0x10000, 0x200000)) == {}
    kept.append(structure(0x7F1111111000, numbers, b"/rom@etc/acpi/tables\0"))
    assert found("/rom@etc/acpi/tables") == {}, "it is described in two ways"


def test_a_guard_page_among_others_hides_nothing(own: tuple[int, int]) -> None:
    numbers = 0x7E5800000000, 0x20000, 0x200000
    kept = structure(0x7F0000000000, numbers, b"vga.vram\0")
    try:
        kept.madvise(GUARD_INSTALL, 0, PAGE)
    except OSError:
        pytest.skip("this kernel has no MADV_GUARD_INSTALL (6.13)")
    at = ctypes.addressof(ctypes.c_char.from_buffer(kept))
    with pytest.raises(SourceError, match="Input/output error"):
        list(read_resident(*own, at, at + 3 * PAGE))
    with open("/proc/self/maps") as maps:
        mappings = parse_maps(maps.read())
    assert find_structures(*own, mappings, {"vga.vram": numbers}) == {"vga.vram": 0x7F0000000000}


def test_absent_pages_stay_absent(own: tuple[int, int]) -> None:
    area = mmap.mmap(-1, 64 * PAGE, mmap.MAP_PRIVATE)
    area[5 * PAGE] = area[6 * PAGE] = area[63 * PAGE] = 1
    at = ctypes.addressof(ctypes.c_char.from_buffer(area))
    found = [(each - at, len(text)) for each, text in read_resident(*own, at, at + 64 * PAGE)]
    assert found == [(5 * PAGE, 2 * PAGE), (63 * PAGE, PAGE)]
    assert found == [
        (each - at, len(text)) for each, text in read_resident(*own, at, at + 64 * PAGE)
    ]


def test_memory_that_is_not_there(own: tuple[int, int]) -> None:
    with pytest.raises(SourceError, match="memory at 0x1000: "):
        list(read_resident(*own, PAGE, 2 * PAGE, every=True))
