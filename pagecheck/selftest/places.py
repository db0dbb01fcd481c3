"""Where the RAM of a world lies, and what of that this host has.

A place makes files, or processes with private memory, that are filled page by page.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

UNIT: Final = 4096
HUGE: Final = 2 << 20
SHM: Final = "/dev/shm"
HUGE_PAGES: Final = "/sys/kernel/mm/hugepages/hugepages-2048kB"
END_S: Final = 10.0

# Copies the data of the file into memory of its own; what is a hole there is not touched.
_PROCESS: Final = """
import ctypes, mmap, os, sys
fd = int(sys.argv[1])
size = os.fstat(fd).st_size
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = 0
while True:
    try:
        at = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    end = os.lseek(fd, at, os.SEEK_HOLE)
    while at < end:
        at += os.preadv(fd, [memoryview(memory)[at:end]], at)
os.close(fd)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""


class Place(NamedTuple):
    """Where RAM can lie.

    Attributes:
        name: as a world names it.
        kind: "memfd", "hugetlb", "private" or "folder".
        folder: the folder's path; "" for the others.
        page_size: the smallest that its RAM has.
        bytes_max: of one world.
        diffs: what was never written is known there.
        holes: what was never written is known by SEEK_DATA too.
        maps: `access="map"` is allowed.
        saves: `pagecheck save` takes a file of it.
    """

    name: str
    kind: str = "folder"
    folder: str = ""
    page_size: int = UNIT
    bytes_max: int = 1 << 40
    diffs: bool = True
    holes: bool = True
    maps: bool = True
    saves: bool = True

    @property
    def is_private(self) -> bool:
        """It is memory of a process, and no file."""
        return self.kind == "private"

    @property
    def sources(self) -> Sequence[str]:
        """The kinds of source that name RAM there."""
        if self.is_private:
            return ("pid",)
        if self.kind != "folder":
            return ("fd",)
        return ("path", "fd", "shm") if self.folder == SHM else ("path", "fd")


class Ram(NamedTuple):
    """RAM that was made.

    Attributes:
        fd: of the file; of private memory, that of the file it was copied from.
        path: the file's; "" where it has none.
        pid, base: of the process, and the address of its memory; 0 where it is a file.
    """

    fd: int
    path: str = ""
    pid: int = 0
    base: int = 0

    def write(self, content: bytes | bytearray, offset: int) -> None:
        """Stores these bytes; no page but theirs is touched."""
        os.pwrite(self.fd, content, offset)


class HugeRam(Ram):
    """hugetlbfs has no write(2): its pages are stored to through a mapping."""

    __slots__ = ()

    def write(self, content: bytes | bytearray, offset: int) -> None:
        """Stores these bytes; they may be in several pages."""
        begin = offset // HUGE * HUGE
        size = -(-(offset + len(content) - begin) // HUGE) * HUGE
        with mmap.mmap(self.fd, size, offset=begin) as pages:
            pages[offset - begin : offset - begin + len(content)] = bytes(content)


@contextlib.contextmanager
def made(place: Place) -> Iterator[Ram]:
    """An empty file of that place, which is removed at the end."""
    if place.kind in ("memfd", "private"):
        fd = os.memfd_create("pagecheck-selftest")
    elif place.kind == "hugetlb":
        fd = os.memfd_create("pagecheck-selftest", os.MFD_HUGETLB)
    else:
        with tempfile.NamedTemporaryFile(prefix="selftest-", dir=place.folder) as file:
            yield Ram(file.fileno(), file.name)
        return
    try:
        yield HugeRam(fd) if place.kind == "hugetlb" else Ram(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def in_process(ram: Ram) -> Iterator[Ram]:
    """What was written, as the private memory of a process of its own, which ends here."""
    command = [sys.executable, "-I", "-S", "-c", _PROCESS, str(ram.fd)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[ram.fd]) as process:
        try:
            assert process.stdout is not None
            yield ram._replace(pid=process.pid, base=int(process.stdout.readline()))
        finally:
            process.kill()
            process.wait(END_S)


def read_only(ram: Ram) -> None:
    """Nobody has the file open for writing any more; its descriptor stays what it is."""
    if ram.path:
        fd = os.open(ram.path, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(fd, ram.fd, inheritable=False)
        os.close(fd)


def candidates(folders: Sequence[str]) -> list[Place]:
    """The places that a host may have.

    Args:
        folders: the user's own, beside those that every host has.
    """
    found = [
        Place("memfd", "memfd", saves=False),
        Place("private", "private", diffs=False, saves=False),
        Place("shm", folder=SHM),
        Place("tmp", folder=tempfile.gettempdir()),
    ]
    found += [Place(path, folder=path) for path in map(os.path.abspath, folders)]
    most = _huge_bytes()
    if most >= HUGE:
        how = {"page_size": HUGE, "bytes_max": most, "diffs": False, "holes": False, "saves": False}
        found.append(Place("hugetlb", "hugetlb", **how))  # type: ignore[arg-type]
    return found


def _huge_bytes() -> int:
    """What a world may use of the host's free huge pages; 0: too few are free."""
    numbers = []
    for name in ("free_hugepages", "resv_hugepages"):
        try:
            with open(f"{HUGE_PAGES}/{name}") as file:
                numbers.append(int(file.read()))
        except (OSError, ValueError):
            return 0
    # In front of the block are three pages at most.
    return max(0, numbers[0] - numbers[1] - 3) * HUGE
