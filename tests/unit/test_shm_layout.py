"""The shared words: C and Python agree, nothing overlaps, every cache line has one writer."""

import mmap
import os
from itertools import combinations

import pytest

from pagecheck.native import _native
from pagecheck.shm import layout
from pagecheck.shm.layout import (
    CONTROL,
    FAILURE,
    HEADER,
    SLOT,
    SLOT_HEAD_BYTES,
    STATS,
    Field,
    segment_bytes,
)

LINE = 64
TABLES = {"header": HEADER, "control": CONTROL, "stats": STATS, "slot": SLOT, "failure": FAILURE}


def python_table() -> dict[str, tuple[int, int]]:
    return {
        f"{part}.{name}": (field.offset, field.size)
        for part, table in TABLES.items()
        for name, field in table.items()
    }


def test_c_and_python_have_the_same_table() -> None:
    assert python_table() == _native.layout()


@pytest.mark.parametrize("part", TABLES)
def test_no_two_fields_overlap(part: str) -> None:
    for (a, x), (b, y) in combinations(TABLES[part].items(), 2):
        assert x.offset + x.size <= y.offset or y.offset + y.size <= x.offset, (a, b)


@pytest.mark.parametrize("part", TABLES)
def test_every_cache_line_has_one_writer(part: str) -> None:
    writers: dict[int, set[str]] = {}
    for field in TABLES[part].values():
        for line in {field.offset // LINE, (field.offset + field.size - 1) // LINE}:
            writers.setdefault(line, set()).add(field.writer)
    assert all(len(names - {"added to"}) <= 1 for names in writers.values()), writers


@pytest.mark.parametrize("part", TABLES)
def test_fields_are_aligned(part: str) -> None:
    assert all(field.offset % min(field.size, 8) == 0 for field in TABLES[part].values())


def test_fields_lie_inside_their_part() -> None:
    assert all(f.offset + f.size <= layout.HEADER_BYTES for f in HEADER.values())
    assert all(f.offset + f.size <= _native.CONTROL_BYTES for f in CONTROL.values())
    assert all(f.offset + f.size <= layout.STATS_WORDS * 8 for f in STATS.values())
    assert all(f.offset + f.size <= SLOT_HEAD_BYTES for f in SLOT.values())


@pytest.mark.parametrize(("slots", "pages"), [(1, 64), (16, 512), (3, 128), (1024, 65536)])
def test_segment_bytes(slots: int, pages: int) -> None:
    arrays = pages * 8 + 2 * (pages // 64) * 8
    slot = -(-(SLOT_HEAD_BYTES + arrays) // 128) * 128
    assert segment_bytes(slots, pages) == layout.HEADER_BYTES + slots * slot


def formatted(slots: int, pages: int, generation: int = 7) -> mmap.mmap:
    size = segment_bytes(slots, pages)
    fd = os.memfd_create("segment")
    os.ftruncate(fd, size)
    try:
        _native.segment_format(fd, slots, pages, generation)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)


def test_a_new_segment_reads_as_the_table_says() -> None:
    with formatted(16, 512) as memory:
        header = bytes(memory[: layout.HEADER_BYTES])
    found = {name: field.read(header) for name, field in HEADER.items()}
    slot_bytes = (segment_bytes(16, 512) - layout.HEADER_BYTES) // 16
    assert found == {
        "magic": layout.MAGIC,
        "layout_version": _native.LAYOUT_VERSION,
        "header_bytes": layout.HEADER_BYTES,
        "segment_bytes": segment_bytes(16, 512),
        "generation": 7,
        "slot_count": 16,
        "slot_pages": 512,
        "slot_bytes": slot_bytes,
        "wake_at": 2**64 - 1,
        "asleep": 0,
        "done": 0,
        "submit": 0,
        "gone": 0,
    }


def test_magic_spells_its_name() -> None:
    assert layout.MAGIC.to_bytes(8, "little") == b"PCPCRING"


@pytest.mark.parametrize(
    ("slots", "pages"),
    [
        (0, 64),
        (1, 0),
        (1, 63),
        (1, 96),
        (_native.SLOTS_MAX + 1, 64),
        (1, _native.SLOT_PAGES_MAX + 64),
    ],
)
def test_impossible_geometry(slots: int, pages: int) -> None:
    fd = os.memfd_create("segment")
    os.ftruncate(fd, max(segment_bytes(slots, pages), 4096))
    try:
        with pytest.raises(ValueError, match="out of range"):
            _native.segment_format(fd, slots, pages, 1)
    finally:
        os.close(fd)


def test_field_reads_its_own_bytes() -> None:
    assert Field(4, "I", "worker", "").read(bytes([9, 9, 9, 9, 1, 2, 0, 0, 9])) == 0x201
