"""RAM files that are filled page by page.

A page is a hole, written zeros, or written with one byte that is not zero.
"""

import contextlib
import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pagecheck import Report
from tests.support.kernel_settings import alone

PAGE = 4096
HUGE = 2 << 20
NR_HUGE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@dataclass(frozen=True)
class Page:
    """What a page holds: None a hole, -1 written zeros, else the place of its one byte."""

    place: int | None
    value: int = 1


HOLE = Page(None)
ZEROS = Page(-1)


class Ram:
    """A RAM file, open for writing, under a name that pagecheck can be given."""

    def __init__(self, fd: int, source: str) -> None:
        self.fd = fd
        self.source = source

    def fill(self, pages: list[Page], page_size: int, start: int = 0) -> None:
        """Makes the file anew: `start` bytes of hole, then the pages."""
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, start + len(pages) * page_size)
        for index, page in enumerate(pages):
            if page.place is not None:
                content = bytearray(page_size)
                if page.place >= 0:
                    content[page.place] = page.value
                self.write(content, start + index * page_size)
        os.fsync(self.fd)

    def write(self, content: bytes | bytearray, offset: int) -> None:
        os.pwrite(self.fd, content, offset)

    @property
    def blocks(self) -> int:
        return os.fstat(self.fd).st_blocks


class HugeRam(Ram):
    """hugetlbfs knows no write(2): its pages are stored to through a mapping."""

    def write(self, content: bytes | bytearray, offset: int) -> None:
        begin = offset // HUGE * HUGE
        with mmap.mmap(self.fd, HUGE, offset=begin) as page:
            page[offset - begin : offset - begin + len(content)] = bytes(content)


def punch(fd: int, offset: int, size: int) -> None:
    """Takes this part out of the file, which keeps its size."""
    keep_size, punch_hole = 1, 2  # linux/falloc.h
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, keep_size | punch_hole, offset, size) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def sparse_file(path: str | os.PathLike[str], pages: int, data: dict[int, bytes]) -> Path:
    """A file of holes but for the pages of `data`, each given by its bytes."""
    with open(path, "wb") as file:
        file.truncate(pages * PAGE)
        for page, content in data.items():
            file.seek(page * PAGE)
            file.write(content.ljust(PAGE, b"\0"))
    return Path(os.fsdecode(path))


@contextlib.contextmanager
def memfd() -> Iterator[Ram]:
    fd = os.memfd_create("ram")
    yield Ram(fd, f"fd:{fd}")
    os.close(fd)


@contextlib.contextmanager
def file_in(folder: str | Path | None) -> Iterator[Ram]:
    with tempfile.NamedTemporaryFile(prefix="pctest-", dir=folder) as file:
        yield Ram(file.fileno(), file.name)


@contextlib.contextmanager
def huge_reserved(pages: int) -> Iterator[None]:
    """The host's reserve of 2 MiB pages is raised by `pages` and put back after.

    Raises:
        OSError: the pages cannot be had; the text says what is missing.
    """
    with alone():
        before = int(NR_HUGE.read_text())
        NR_HUGE.write_text(str(before + pages))
        try:
            have = int(NR_HUGE.read_text())
            if have < before + pages:
                raise OSError(f"{NR_HUGE} went to {have}, not {before + pages}: no free memory")
            yield
        finally:
            NR_HUGE.write_text(str(max(0, int(NR_HUGE.read_text()) - pages)))


@contextlib.contextmanager
def huge(pages: int) -> Iterator[Ram]:
    """A memfd of 2 MiB pages, which are reserved for it.

    Raises:
        OSError: as of `huge_reserved`.
    """
    with huge_reserved(pages):
        fd = os.memfd_create("huge", os.MFD_HUGETLB)
        yield HugeRam(fd, f"fd:{fd}")
        os.close(fd)


def _moved_pages() -> tuple[int, ...]:
    """How many pages the kernel moved or tried to move, since it started."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return tuple(int(counts.get(f"pgmigrate_{how}", 0)) for how in ("success", "fail"))


def undisturbed(run: Callable[[], Report]) -> Report:
    """What `run` returns from a run in which the kernel moved no page.

    While it moves one (compaction, also for huge pages), the page is absent from the page tables
    for a moment and a device faults on it, whatever the driver did.
    """
    for _ in range(20):
        before = _moved_pages()
        report = run()
        if _moved_pages() == before:
            return report
    pytest.skip("the kernel moved pages in each of 20 runs")
