"""What an absent page of private memory means, mapping by mapping."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from pagecheck.errors import SourceError
from pagecheck.native import _native
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import arrives, open_private
from pagecheck.vmm.process import memory
from pagecheck.vmm.process.maps import Mapping, parse_maps
from pagecheck.vmm.process.memory import DetailedMapping, ProcessMemory
from tests.support.memory import Area

ZERO, FILE = _native.ABSENT_ZERO, _native.ABSENT_FILE
UNDECIDED, UNREADABLE = _native.ABSENT_UNDECIDED, _native.UNREADABLE
PAGES = 16


@pytest.fixture
def area() -> Iterator[Area]:
    with Area(PAGES) as area:
        yield area


def opened(area: Area, **more: object) -> ProcessRam:
    with ProcessMemory(os.getpid()) as process:
        return open_private(process, "pid:1", "ram", area.base, area.size, **more)  # type: ignore[arg-type]


def pieces(ram: ProcessRam) -> list[tuple[int, int, int]]:
    """Pages instead of bytes."""
    return [(each.begin // 4096, each.end // 4096, each.absent) for each in ram.pieces]


def test_anonymous_memory(area: Area) -> None:
    with opened(area) as ram:
        assert pieces(ram) == [(0, PAGES, ZERO)]
        assert ram.notes == ()
        assert (ram.size, ram.base, ram.pid) == (area.size, area.base, os.getpid())
        assert ram.verify() is None


def test_lines_of_one_kind_are_one_piece(area: Area) -> None:
    area.advise(4, 4, mmap.MADV_DONTDUMP)  # three lines in maps
    with opened(area) as ram:
        assert pieces(ram) == [(0, PAGES, ZERO)]


def test_what_is_not_mapped_or_not_readable(area: Area) -> None:
    area.unmap(2, 2)
    area.protect(8, 1, 0)
    with opened(area) as ram:
        kinds = [ZERO, UNREADABLE, ZERO, UNREADABLE, ZERO]
        assert [kind for _, _, kind in pieces(ram)] == kinds
        assert [note.split(": ")[-1] for note in ram.notes] == [
            "not mapped, and undecided",
            "not private memory that may be read, and undecided",
        ]


def test_a_private_mapping_of_a_file(area: Area, tmp_path: object) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 64 * 4096)
    area.map_file(4, 4, fd, 8 * 4096)
    with opened(area) as ram:
        assert pieces(ram) == [(0, 4, ZERO), (4, 8, FILE), (8, PAGES, ZERO)]
        assert ram.pieces[1].file_offset == 8 * 4096
        assert os.path.samestat(os.fstat(ram.file_fd), os.fstat(fd))
    os.close(fd)


def test_mappings_of_one_file_are_one_piece_where_they_go_on_in_it(area: Area) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 64 * 4096)
    area.map_file(4, 2, fd, 8 * 4096)
    area.map_file(6, 2, fd, 10 * 4096)
    area.advise(6, 2, mmap.MADV_DONTDUMP)  # the kernel makes one mapping of equal ones
    area.map_file(8, 4, fd, 32 * 4096)
    with opened(area) as ram:
        assert pieces(ram) == [(0, 4, ZERO), (4, 8, FILE), (8, 12, FILE), (12, PAGES, ZERO)]
        assert [each.file_offset for each in ram.pieces[1:3]] == [8 * 4096, 32 * 4096]
    os.close(fd)


def test_a_file_whose_inode_is_0(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a FUSE file system may have it: what is absent is the file's, and not zero."""
    parse = memory.parse_maps

    def shown(text: str) -> list[Mapping]:
        return [m._replace(dev=40) if m.start == area.base else m for m in parse(text)]

    monkeypatch.setattr(memory, "parse_maps", shown)
    with opened(area) as ram:
        assert pieces(ram) == [(0, PAGES, UNDECIDED)]
        assert "absent pages are those of a file" in ram.notes[0]


def test_a_second_file_is_undecided(area: Area) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to open a file that is only mapped")
    fds = [os.memfd_create("ram"), os.memfd_create("other")]
    for index, fd in enumerate(fds):
        os.ftruncate(fd, 4096)
        area.map_file(index, 1, fd, 0)
        os.close(fd)
    with opened(area) as ram:
        assert pieces(ram)[:2] == [(0, 1, FILE), (1, 2, UNDECIDED)]
        assert "second file" in ram.notes[0]


def test_shared_memory_is_not_private(area: Area) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 4096)
    area.map_file(3, 1, fd, 0, shared=True)
    os.close(fd)
    with opened(area) as ram:
        assert (3, 4, UNREADABLE) in pieces(ram)


def test_nothing_there(area: Area) -> None:
    area.unmap(0, PAGES)
    with pytest.raises(SourceError, match="maps no private memory"):
        opened(area)


def map_new_file(area: Area) -> None:
    fd = os.memfd_create("other")
    area.map_file(3, 1, fd, 0)
    os.close(fd)


CHANGES: dict[str, Callable[[Area], None]] = {
    "unmapped": lambda area: area.unmap(3, 1),
    "a file in its place": map_new_file,
    "not readable": lambda area: area.protect(0, PAGES, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mapping_that_was_exchanged(area: Area, change: str) -> None:
    with opened(area) as ram:
        CHANGES[change](area)
        assert "exchanged" in (ram.verify() or "")


def test_lines_that_were_split_are_the_same_memory(area: Area) -> None:
    with opened(area) as ram:
        area.advise(4, 4, mmap.MADV_DONTDUMP)
        assert ram.verify() is None


def test_a_change_since_the_details_were_asked_for(area: Area) -> None:
    """They are asked for again."""
    with ProcessMemory(os.getpid()) as process:
        details = list(process.detailed_mappings())
    area.unmap(3, 1)
    with opened(area, details=details) as ram:
        assert pieces(ram) == [(0, 3, ZERO), (3, 4, UNREADABLE), (4, PAGES, ZERO)]


def test_mappings_that_never_settle(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ProcessMemory.mappings
    pages = iter(range(PAGES))

    def changing(process: ProcessMemory) -> list[Mapping]:
        area.unmap(next(pages), 1)
        return read(process)

    monkeypatch.setattr(ProcessMemory, "mappings", changing)
    with pytest.raises(SourceError, match="changed while it was inspected; try again"):
        opened(area)


LINE = "7f0000000000-7f0000010000 rw-p 00000000 00:00 0 \n"


@pytest.mark.parametrize(
    ("flags", "expected"), [("rd wr um", True), ("rd uw", True), ("ui", True), ("rd wr hg", False)]
)
def test_userfaultfd(flags: str, expected: bool) -> None:
    (mapping,) = parse_maps(LINE)
    details = [DetailedMapping(mapping, frozenset(flags.split()), 0)]
    assert arrives(details, mapping.start, mapping.size) is expected
    assert not arrives(details, mapping.end, 4096)


@pytest.mark.parametrize("flag", ["io", "pf"])
def test_the_memory_of_a_device_is_not_read(area: Area, flag: str) -> None:
    area.advise(4, 4, mmap.MADV_DONTDUMP)  # a mapping of its own
    with ProcessMemory(os.getpid()) as process:
        details = list(process.detailed_mappings())
    of_device = [
        each._replace(flags=each.flags | {flag} if "dd" in each.flags else each.flags)
        for each in details
    ]
    with opened(area, details=of_device) as ram:
        assert pieces(ram) == [(0, 4, ZERO), (4, 8, UNREADABLE), (8, PAGES, ZERO)]
        assert ram.notes[0].endswith("16 KiB: the memory of a device, and undecided")


def test_absent_huge_pages_are_undecided(area: Area) -> None:
    with ProcessMemory(os.getpid()) as process:
        found = list(process.detailed_mappings())
        details = [each._replace(flags=each.flags | {"ht"}) for each in found]
    with opened(area, details=details) as ram:
        assert pieces(ram) == [(0, PAGES, UNDECIDED)]
        assert "hugetlb" in ram.notes[0]
