"""Size and backing of guest RAM, from a command line and from mappings."""

from __future__ import annotations

import mmap
import os

import pytest

from pagecheck.vmm.find.backing import Ram, ram_as_started, ram_of
from pagecheck.vmm.options.ram_options import CommandLine, RamOption
from pagecheck.vmm.process.memory import ProcessMemory

MIB = 1 << 20
MAP_NORESERVE = 0x4000  # Python has it from 3.13 on


def told(ram: Ram) -> tuple[int | None, str | None, bool]:
    return ram.size, ram.backing, ram.has_private


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([], (None, None, True)),
        ([(64, True)], (64 * MIB, "shared", False)),
        ([(64, False)], (64 * MIB, "private", True)),
        ([(64, None)], (64 * MIB, None, True)),
        ([(64, True), (32, True)], (96 * MIB, "shared", False)),
        ([(64, True), (32, False)], (96 * MIB, "mixed", True)),
    ],
)
def test_what_a_command_line_says(
    blocks: list[tuple[int, bool | None]], expected: tuple[int | None, str | None, bool]
) -> None:
    ram = tuple(RamOption(f"m{n}", size * MIB, shared) for n, (size, shared) in enumerate(blocks))
    assert told(ram_as_started(CommandLine("QEMU", ram=ram))) == expected


def ram_here(*options: RamOption) -> tuple[int | None, str | None, bool]:
    with ProcessMemory(os.getpid()) as process:
        return told(ram_of(process, CommandLine("QEMU", ram=options)))


def test_what_is_left_open_is_looked_for() -> None:
    size = 48 * MIB
    assert ram_here(RamOption("ram", size, None)) == (size, "private", True)
    fd = os.memfd_create("ch_ram")
    os.ftruncate(fd, size)
    with mmap.mmap(fd, size):
        assert ram_here(RamOption("ram", size, None)) == (size, "shared", False)
        assert ram_here(RamOption("ram", size, is_shared=False)) == (size, "private", True)
    os.close(fd)


def test_a_default_that_is_not_there() -> None:
    """`qemu -M none`, or a machine with another default."""
    with ProcessMemory(os.getpid()) as process:
        ram = (RamOption("pc.ram", 4096 * 12345, is_shared=False),)
        found = ram_of(process, CommandLine("QEMU", ram=ram, is_default=True))
        assert found.size != 4096 * 12345
        assert ram_of(process, CommandLine("QEMU", ram=ram)).size == 4096 * 12345


def test_a_default_beside_what_has_a_size() -> None:
    """QEMU without `-m size`, with a DIMM."""
    ram = tuple(RamOption(name, 48 * MIB, is_shared=False) for name in ("pc.ram", "dimm"))
    fd = os.memfd_create("ram")  # anonymous memory may become one mapping with its neighbours
    os.ftruncate(fd, 48 * MIB)
    with mmap.mmap(fd, 48 * MIB, mmap.MAP_PRIVATE), ProcessMemory(os.getpid()) as process:
        found = ram_of(process, CommandLine("QEMU", ram=ram, is_default=True))
        assert told(found) == (96 * MIB, "private", True)
    os.close(fd)


def test_huge_pages_by_the_device_of_a_mapping() -> None:
    """A mapping without a reservation takes none."""
    try:
        fd = os.memfd_create("ram", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    except OSError as error:
        pytest.skip(f"needs hugetlbfs in the kernel: {error}")
    size = 48 * MIB
    os.ftruncate(fd, size)
    for kind, private in ((mmap.MAP_SHARED, False), (mmap.MAP_PRIVATE, True)):
        with mmap.mmap(fd, size, kind | MAP_NORESERVE):
            assert ram_here(RamOption("ram", size, not private)) == (size, "hugetlb", private)
            odd = RamOption("ram", size - 4096, not private)  # a size that is rounded up
            assert ram_here(odd) == (size - 4096, "hugetlb", private)
    os.close(fd)


def test_shared_memory_that_is_none_of_the_ram() -> None:
    fd = os.memfd_create("pulse")
    os.ftruncate(fd, 64 * MIB)
    with mmap.mmap(fd, 64 * MIB):
        assert ram_here(RamOption("ram", 32 * MIB, is_shared=False))[1] == "private"
        assert ram_here(RamOption("ram", 32 * MIB, None))[1] == "private"
    os.close(fd)
