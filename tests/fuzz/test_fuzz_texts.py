"""Texts of the kernel and of QEMU, whole and spoiled: what comes of them is right, or an error."""

from __future__ import annotations

import os
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pagecheck.errors import PagecheckError
from pagecheck.vmm.process.maps import Mapping, covering, is_still_mapped, parse_maps
from pagecheck.vmm.qemu.mtree import RamRange, parse_mtree

PAGE = 4096
NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\0"), max_size=30)
PATHS = st.one_of(st.just(""), NAMES.map(lambda name: f"/dev/shm/{name.strip()}x"))
NUMBERS = st.integers(0, (1 << 52) - 1)

mappings = st.lists(
    st.builds(
        lambda gap, size, perms, offset, dev, inode, path, deleted: (
            gap,
            Mapping(0, size * PAGE, perms, offset * PAGE, os.makedev(*dev), inode, path, deleted),
        ),
        st.integers(0, 3),
        st.integers(1, 1 << 20),
        st.sampled_from(["rw-s", "rw-p", "r--p", "---p", "r-xp"]),
        st.integers(0, 1 << 30),
        st.tuples(st.integers(0, 255), st.integers(0, 255)),
        st.integers(0, 1 << 63),
        PATHS,
        st.booleans(),
    ),
    max_size=8,
)


def placed(drawn: list[tuple[int, Mapping]]) -> list[Mapping]:
    """One behind the other, as the kernel lists them."""
    found, at = [], PAGE
    for gap, each in drawn:
        at += gap * PAGE
        deleted = each.deleted and each.path != ""
        found.append(each._replace(start=at, end=at + each.size, deleted=deleted))
        at += each.size
    return found


def written(each: Mapping) -> str:
    path = each.path.replace("\n", "\\012") + " (deleted)" * each.deleted
    dev = f"{os.major(each.dev):02x}:{os.minor(each.dev):02x}"
    line = f"{each.start:08x}-{each.end:08x} {each.perms} {each.offset:08x} {dev} {each.inode} "
    return f"{line:<73}{path}".rstrip(" ") + "\n"


@settings(max_examples=100, deadline=None)
@given(mappings, NUMBERS, st.integers(1, 1 << 24))
def test_mappings(drawn: list[tuple[int, Mapping]], base: int, size: int) -> None:
    maps = placed(drawn)
    assert parse_maps("".join(map(written, maps))) == maps
    for each in maps:
        assert covering(maps, each.start, each.size) == each
        assert is_still_mapped(each, maps)
    found = covering(maps, base, size)
    assert found is None or found.start <= base < found.end


@settings(max_examples=100, deadline=None)
@given(mappings, st.integers(0, 2000), st.integers(0, 2000), st.text(max_size=40))
def test_spoiled_mappings(drawn: list[tuple[int, Mapping]], at: int, to: int, new: str) -> None:
    text = "".join(map(written, placed(drawn)))
    try:
        found = parse_maps(text[:at] + new + text[to:])
    except PagecheckError:
        return
    assert all(each.perms and each.inode >= 0 for each in found)


RANGES = st.lists(
    st.builds(
        RamRange,
        st.integers(0, 1 << 20).map(lambda gap: gap * PAGE),
        st.integers(1, 1 << 20).map(lambda pages: pages * PAGE),
        st.sampled_from(["pc.ram", "mem0", "/objects/mem1", "vga.vram", "0000:00:02.0/x"]),
        st.integers(0, 1 << 20).map(lambda pages: pages * PAGE),
    ),
    max_size=8,
)
KINDS = st.sampled_from(["ram", "rom", "nv-ram", "i/o", "ramd", "container"])


def shown(ranges: list[RamRange], kinds: list[str], space: str) -> str:
    lines = ["FlatView #1", f' AS "{space}", root: system', " Root memory region: system"]
    for each, kind in zip(ranges, kinds, strict=True):
        place = f"{each.gpa:016x}-{each.gpa + each.size - 1:016x} (prio 0, {kind})"
        offset = f" @{each.offset:016x}" if each.offset else ""
        lines.append(f"  {place}: {each.block}{offset} KVM")
    return "\n".join(lines) + "\n"


def pages_of(ranges: list[RamRange]) -> dict[int, tuple[str, int]]:
    """For the ends of each range: the block and offset that are there."""
    found = {}
    for each in ranges:
        block = each.block.removeprefix("/objects/")
        for at in (0, each.size - 1):
            found[each.gpa + at] = (block, each.offset + at)
    return found


def looked_up(ranges: list[RamRange], gpa: int) -> tuple[str, int] | None:
    for each in ranges:
        if each.gpa <= gpa < each.gpa + each.size:
            return each.block, each.offset + gpa - each.gpa
    return None


@settings(max_examples=100, deadline=None)
@given(RANGES, st.data())
def test_memory_trees(drawn: list[RamRange], data: st.DataObject) -> None:
    ranges, at = [], 0
    for each in drawn:
        ranges.append(each._replace(gpa=at + each.gpa))
        at = ranges[-1].gpa + each.size
    kinds = [data.draw(KINDS) for _ in ranges]
    found = parse_mtree(shown([], [], "I/O") + shown(ranges, kinds, "memory"))
    ram = [
        each for each, kind in zip(ranges, kinds, strict=True) if kind in ("ram", "rom", "nv-ram")
    ]
    assert sum(each.size for each in found) == sum(each.size for each in ram)
    for gpa, where in pages_of(ram).items():
        assert looked_up(found, gpa) == where
    assert parse_mtree(shown(ranges, kinds, "memory-of-another")) == []


def is_backwards(text: str) -> bool:
    """Whether a range in the text ends before it begins."""
    found = re.findall(r"\b([0-9a-f]+)-([0-9a-f]+) \(prio", text)
    return any(int(end, 16) < int(start, 16) for start, end in found)


@settings(max_examples=200, deadline=None)
@example([RamRange(PAGE, PAGE, "pc.ram", 0)], 98, 99, "0")
@given(RANGES, st.integers(0, 900), st.integers(0, 900), st.text(max_size=60))
def test_spoiled_memory_trees(drawn: list[RamRange], at: int, to: int, new: str) -> None:
    text = shown(drawn, ["ram"] * len(drawn), "memory")
    for each in parse_mtree(text[:at] + new + text[to:]):
        assert each.block
        assert each.size > 0 or is_backwards(text[:at] + new + text[to:])
        assert each.gpa >= 0
        assert each.offset >= 0
