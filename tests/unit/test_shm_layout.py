"""The shared words: every one of C's is Python's, nothing overlaps, every cache line has one
writer, and docs/shm-layout.md shows them as they are."""

import mmap
import os
import subprocess
import sys
from itertools import combinations

import pytest

from pagecheck.native import _native
from pagecheck.shm import layout
from pagecheck.shm.layout import (
    CONTROL,
    FAILURE,
    HEADER,
    SINK,
    SLOT,
    STATS,
    Field,
    segment_bytes,
)
from tools import shm_layout

LINE = 64
BYTES = {
    "header": _native.HEADER_BYTES,
    "slot": _native.SLOT_HEAD_BYTES,
    "control": _native.CONTROL_BYTES,
    "stats": CONTROL["stats"].size,
    "failure": CONTROL["failure"].size,
    "sink": _native.SINK_STATE_BYTES,
}
TABLES = {
    "header": HEADER,
    "control": CONTROL,
    "stats": STATS,
    "slot": SLOT,
    "failure": FAILURE,
    "sink": SINK,
}


@pytest.mark.parametrize("part", TABLES)
def test_python_has_every_word_of_the_headers(part: str) -> None:
    assert list(TABLES[part]) == [word.name for word in shm_layout.words(part)]


def test_the_page_shows_the_words_as_they_are() -> None:
    assert shm_layout.PAGE.read_text() == shm_layout.page()


def test_the_check_tells_a_page_that_is_out_of_date(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(shm_layout.PAGE.read_text().replace("| `attention` |", "| `atention` |", 1))
    command = [sys.executable, "-m", "tools.shm_layout", "--page", str(page)]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=60)
    assert check.returncode == 1
    assert "tools.shm_layout" in check.stderr
    subprocess.run(command, check=True, timeout=60)
    assert page.read_text() == shm_layout.PAGE.read_text()
    subprocess.run([*command, "--check"], check=True, timeout=60)


@pytest.mark.parametrize("part", TABLES)
def test_no_two_fields_overlap(part: str) -> None:
    for (a, x), (b, y) in combinations(TABLES[part].items(), 2):
        assert x.offset + x.size <= y.offset or y.offset + y.size <= x.offset, (a, b)


@pytest.mark.parametrize("part", TABLES)
def test_every_cache_line_has_one_writer(part: str) -> None:
    writers: dict[int, set[str]] = {}
    for word in shm_layout.words(part):
        field = TABLES[part][word.name]
        for line in {field.offset // LINE, (field.offset + field.size - 1) // LINE}:
            writers.setdefault(line, set()).add(word.writer)
    assert all(len(names - {"added to"}) <= 1 for names in writers.values()), writers


@pytest.mark.parametrize("part", TABLES)
def test_fields_are_aligned(part: str) -> None:
    assert all(field.offset % min(field.size, 8) == 0 for field in TABLES[part].values())


@pytest.mark.parametrize("part", TABLES)
def test_fields_lie_inside_their_part(part: str) -> None:
    assert all(f.offset + f.size <= BYTES[part] for f in TABLES[part].values())


@pytest.mark.parametrize(("slots", "pages"), [(1, 64), (16, 512), (3, 128), (1024, 65536)])
def test_segment_bytes(slots: int, pages: int) -> None:
    arrays = pages * 8 + 2 * (pages // 64) * 8
    slot = -(-(_native.SLOT_HEAD_BYTES + arrays) // 128) * 128
    assert segment_bytes(slots, pages) == _native.HEADER_BYTES + slots * slot


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
        header = bytes(memory[: _native.HEADER_BYTES])
    found = {name: field.read(header) for name, field in HEADER.items()}
    slot_bytes = (segment_bytes(16, 512) - _native.HEADER_BYTES) // 16
    assert found == {
        "magic": _native.SEGMENT_MAGIC,
        "layout_version": _native.LAYOUT_VERSION,
        "header_bytes": _native.HEADER_BYTES,
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
    assert _native.SEGMENT_MAGIC.to_bytes(8, "little") == b"PCPCRING"


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
    assert Field(4, 4).read(bytes([9, 9, 9, 9, 1, 2, 0, 0, 9])) == 0x201


def test_a_queue_state_has_two_halves() -> None:
    word = _native.QUEUE_LATE << 8 | _native.QUEUE_DRAINING
    assert layout.queue_state(word) == (_native.QUEUE_DRAINING, _native.QUEUE_LATE)


def test_statistics_are_found_by_name() -> None:
    words = range(layout.STATS_WORDS)
    assert layout.statistic(words, "batches") == STATS["batches"].offset // 8
    latencies = layout.statistic_array(words, "latencies")
    assert latencies == list(range(layout.STATS_WORDS - 24, layout.STATS_WORDS))
    with pytest.raises(ValueError, match="unpack"):
        layout.statistic(words, "latencies")
