"""QEMU's list of RAM blocks, walked in a process, which is our own here."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from pagecheck.vmm.process.maps import parse_maps
from pagecheck.vmm.qemu.list import Listed, walk_list

PAGE = mmap.PAGESIZE
HOST, LINK, BYTES = 24, 336, 352  # where the host address and the link forward are, and the whole
BLOCKS = [
    Listed("pc.ram", (0x7E6700000000, 1 << 30, 1 << 30)),
    Listed("/rom@etc/acpi/tables", (0x7E6750000000, 0x20000, 0x200000)),
    Listed("", (0x7E6760000000, PAGE, PAGE)),
    Listed("vga.vram", (0x7E6770000000, 0x1000000, 0x1000000)),
]
HOSTS = {each.name: 0x7F0000000000 + (n << 32) for n, each in enumerate(BLOCKS)}


class Heap:
    """A list with these blocks as in QEMU 7.2, each structure over the edge of two pages."""

    def __init__(self, blocks: list[Listed]) -> None:
        self.memory = mmap.mmap(-1, (2 * len(blocks) + 1) * PAGE, mmap.MAP_PRIVATE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        places = [2 * n * PAGE + PAGE - 100 for n in range(len(blocks))]
        head = len(self.memory) - PAGE  # whose word is a link forward as the others'
        links = [head, *(at + LINK for at in places)]
        self.write(head, self.base + places[0])
        for n, block in enumerate(blocks):
            host = HOSTS.get(block.name, 0x7F9900000000)
            name = block.name.encode()
            text = struct.pack("=QQQQQQI256s", host, 0, *block.numbers, 0x5555, 1, name)
            self.memory[places[n] + HOST : places[n] + HOST + len(text)] = text
            behind = self.base + places[n + 1] if n + 1 < len(places) else 0
            self.write(places[n] + LINK, behind)
            self.write(places[n] + LINK + 8, self.base + links[n])
        self.places = places

    def write(self, at: int, value: int) -> None:
        self.memory[at : at + 8] = value.to_bytes(8, "little")


@pytest.fixture
def own() -> Iterator[tuple[int, int]]:
    fds = os.open("/proc/self/pagemap", os.O_RDONLY), os.open("/proc/self/mem", os.O_RDONLY)
    yield fds
    for fd in fds:
        os.close(fd)


def found(own: tuple[int, int], known: Listed, listed: list[Listed] = BLOCKS) -> dict[str, int]:
    with open("/proc/self/maps") as maps:
        mappings = parse_maps(maps.read())
    return walk_list(*own, mappings, listed, known, HOSTS[known.name])


@pytest.mark.parametrize("known", BLOCKS)
def test_all_are_found_from_each(own: tuple[int, int], known: Listed) -> None:
    """The first, the last, and those between; one without a name has none to be found by."""
    kept = Heap(BLOCKS)
    assert found(own, known) == {name: host for name, host in HOSTS.items() if name}
    assert kept.places


def test_the_order_of_the_list_is_its_own(own: tuple[int, int]) -> None:
    kept = Heap(BLOCKS[::-1])
    assert found(own, BLOCKS[0])["vga.vram"] == HOSTS["vga.vram"]
    assert kept.places


@pytest.mark.parametrize(
    "blocks",
    [
        BLOCKS[:3],
        [*BLOCKS, Listed("new", (0x7E6790000000, PAGE, PAGE))],
        [*BLOCKS[:3], BLOCKS[3]._replace(numbers=(0x7E6770000000, 0x800000, 0x1000000))],
        [*BLOCKS[:3], BLOCKS[3]._replace(name="vga.vram2")],
        [*BLOCKS[:3], BLOCKS[2]],
    ],
)
def test_a_list_of_other_blocks_does_not_count(own: tuple[int, int], blocks: list[Listed]) -> None:
    kept = Heap(blocks)
    assert found(own, BLOCKS[0]) == {}
    assert kept.places


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("link", [0, 8])
@pytest.mark.parametrize("value", [8, 0x1000, 1 << 47, (1 << 64) - 8])
def test_a_link_that_nothing_answers(
    own: tuple[int, int], which: int, link: int, value: int
) -> None:
    """Of a structure that is gone, or of a QEMU that is laid out differently."""
    kept = Heap(BLOCKS)
    kept.write(kept.places[which] + LINK + link, value)
    known = BLOCKS[1]
    # Nothing is behind the last one, and what leads to the first one is not looked at.
    unused = (which, link) in {(3, 0), (0, 8)}
    assert bool(found(own, known)) is unused


def test_a_list_without_an_end(own: tuple[int, int]) -> None:
    kept = Heap(BLOCKS)
    first, last = kept.places[0], kept.places[-1]
    kept.write(last + LINK, kept.base + first)
    kept.write(first + LINK + 8, kept.base + last + LINK)
    assert found(own, BLOCKS[1]) == {}


def test_another_host_address(own: tuple[int, int]) -> None:
    kept = Heap(BLOCKS)
    kept.write(kept.places[0] + HOST, 0x1234000)
    assert found(own, BLOCKS[0]) == {}
