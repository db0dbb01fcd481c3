"""A process whose private memory was chosen page by page, and what may be said of each page.

`target.c` does one system call or one store a line; here are the words for it and the truth.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.support.bitmaps import Bools
from tests.support.rams import PAGE

ZERO, NORMAL, UNDECIDED = 1, 2, 4
RIGHT_ZERO, RIGHT_NORMAL = ZERO | UNDECIDED, NORMAL | UNDECIDED

READ, WRITE = 1, 2
SHARED, PRIVATE, FIXED, ANONYMOUS, HUGETLB = 1, 2, 0x10, 0x20, 0x40000
MAYMOVE, MREMAP_FIXED = 1, 2
DONTNEED, FREE, MERGEABLE, HUGEPAGE, NOHUGEPAGE = 4, 8, 12, 14, 15
DONTDUMP, PAGEOUT, COLLAPSE, GUARD_INSTALL = 16, 21, 25, 102

_SOURCE: Final = Path(__file__).with_name("target.c")


@functools.cache
def _program() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, which makes the process that is looked at")
    folder = Path(tempfile.mkdtemp(prefix="pctest-target-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # other users run it too
    strict = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror"]
    made = folder / "target"
    subprocess.run([compiler, *strict, _SOURCE, "-o", made], check=True, timeout=60)
    return made


class Target:
    """The process; a context manager that ends it.

    Attributes:
        process: it, started by this one.
        pid: as this process sees it.
    """

    def __init__(self, *before: str, **options: Any) -> None:
        """Starts it.

        Args:
            *before: words before its own command line, such as `setpriv ... --`.
            **options: of `subprocess.Popen`.
        """
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([*before, _program()], **pipes, **options)
        self._answer()
        self.pid = self.process.pid
        self._scratch = self.do("scratch")

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """Kills it and waits until nothing of it is there."""
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def do(self, *words: str | int) -> int:
        """Gives it one line; the number it answers.

        Raises:
            OSError: with the number that its system call gave.
        """
        return int(self._ask(*words))

    def call(self, name: str, *arguments: int) -> int:
        """Makes it do a system call of target.c's list."""
        return self.do("call", name, *arguments)

    def map(
        self,
        pages: int,
        *,
        prot: int = READ | WRITE,
        flags: int = PRIVATE | ANONYMOUS,
        fd: int = -1,
        offset: int = 0,
        at: int = 0,
    ) -> int:
        """Maps memory, at a multiple of 2 MiB and with a gap on both sides unless `at` says where;
        gives its address."""
        if at == 0:
            huge = 2 << 20
            whole = self.call("mmap", 0, pages * PAGE + 3 * huge, 0, PRIVATE | ANONYMOUS, -1, 0)
            at = (whole // huge + 2) * huge
            self.call("munmap", at, pages * PAGE)
        return self.call("mmap", at, pages * PAGE, prot, flags | FIXED, fd, offset)

    def put(self, content: bytes, at: int | None = None) -> int:
        """Stores bytes, in a place of its own unless `at` says where; gives the address."""
        where = self._scratch if at is None else at
        self.do("put", where, content.hex())
        return where

    def get(self, at: int, size: int) -> bytes:
        """Reads its memory as it does itself."""
        return bytes.fromhex(self._ask("get", at, size))

    def open(self, path: str | os.PathLike[str], flags: int = os.O_RDWR) -> int:
        """Opens a file; its descriptor there."""
        at = self.put(os.fsencode(path) + b"\0")
        return self.call("openat", -100, at, flags | os.O_CLOEXEC, 0)

    def memfd(self, size: int, flags: int = os.MFD_CLOEXEC) -> int:
        """Makes a memfd; its descriptor there."""
        fd = self.call("memfd_create", self.put(b"ram\0"), flags)
        self.call("ftruncate", fd, size)
        return fd

    def _ask(self, *words: str | int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        kind, _, rest = self.process.stdout.readline().decode().strip().partition(" ")
        if kind == "error":
            raise OSError(int(rest), os.strerror(int(rest)))
        assert kind == "ok", f"the target ended: {self.process.poll()}"
        return rest


class Area:
    """Pages of a target in a row, and what may be said of each.

    Attributes:
        base: address of the first byte.
        may: uint8[pages], of ZERO, NORMAL and UNDECIDED, those that are right.
    """

    def __init__(self, target: Target, base: int, pages: int) -> None:
        """Memory that is anonymous, private and untouched."""
        self.target = target
        self.base = base
        self.pages = pages
        self.may = np.full(pages, ZERO, np.uint8)

    @property
    def end(self) -> int:
        return self.base + self.pages * PAGE

    def at(self, page: int) -> int:
        """Address of a page."""
        return self.base + page * PAGE

    def zeros(self, first: int, count: int = 1) -> None:
        """Writes zeros."""
        self.target.do("fill", self.at(first), count * PAGE, 0)
        self.may[first : first + count] = ZERO

    def data(self, first: int, count: int = 1) -> None:
        """Writes bytes that are not zero, all over."""
        self.target.do("fill", self.at(first), count * PAGE, 0x5A)
        self.may[first : first + count] = NORMAL

    def byte(self, page: int, place: int, value: int = 1) -> None:
        """Writes one byte, which is not zero."""
        self.target.do("fill", self.at(page) + place, 1, value)
        self.may[page] = NORMAL

    def touch(self, first: int, count: int = 1) -> None:
        """Reads: what was never written maps the kernel's zero page."""
        self.target.do("touch", self.at(first), count * PAGE)

    def advise(self, first: int, count: int, advice: int) -> None:
        """Calls madvise."""
        self.target.call("madvise", self.at(first), count * PAGE, advice)

    def discard(self, first: int, count: int) -> None:
        """Returns anonymous pages to the kernel."""
        self.advise(first, count, DONTNEED)
        self.may[first : first + count] = ZERO

    def protect(self, first: int, count: int, prot: int) -> None:
        """Calls mprotect; what may not be read is not decided."""
        self.target.call("mprotect", self.at(first), count * PAGE, prot)
        if not prot & READ:
            self.may[first : first + count] = UNDECIDED

    def unmap(self, first: int, count: int) -> None:
        self.target.call("munmap", self.at(first), count * PAGE)
        self.may[first : first + count] = UNDECIDED

    def mix(self, seed: int = 1, pages: Iterable[int] | None = None) -> None:
        """Each page by chance: untouched, touched, zeros, one byte that is not zero, or all."""
        rng = np.random.default_rng(seed)
        for page in range(self.pages) if pages is None else pages:
            kind = rng.choice(["hole", "hole", "touched", "zeros", "first", "last", "any", "all"])
            if kind == "touched":
                self.touch(page)
            elif kind == "zeros":
                self.zeros(page)
            elif kind == "all":
                self.data(page)
            elif kind != "hole":
                self.byte(page, {"first": 0, "last": PAGE - 1}.get(kind, int(rng.integers(PAGE))))

    def entries(self) -> np.ndarray:
        """uint64[pages], of /proc/PID/pagemap; bit 63 is set where present, 62 where swapped."""
        with open(f"/proc/{self.target.pid}/pagemap", "rb", buffering=0) as file:
            file.seek(self.base // PAGE * 8)
            return np.frombuffer(file.read(self.pages * 8), np.uint64)

    def present(self) -> Bools:
        """Which pages a page table maps, by the kernel."""
        found: Bools = (self.entries() >> np.uint64(63)).astype(bool)
        return found

    def swapped(self) -> Bools:
        found: Bools = (self.entries() >> np.uint64(62) & np.uint64(1)).astype(bool)
        return found


def joined(may: np.ndarray, parts: int) -> np.ndarray:
    """What may be said of pages that are `parts` of these long: zero where each part is, normal as
    soon as one part is, otherwise undecided."""
    rows = np.pad(may, (0, -len(may) % parts), constant_values=ZERO).reshape(-1, parts)
    every = np.bitwise_and.reduce(rows, axis=1)
    some = np.bitwise_or.reduce(rows, axis=1)
    must_be_normal = (rows == NORMAL).any(axis=1)
    larger = (every & ZERO) | (some & (NORMAL | UNDECIDED))
    return np.where(must_be_normal, NORMAL, larger).astype(np.uint8)


def said(zero: Bools, normal: Bools) -> np.ndarray:
    """ZERO, NORMAL or UNDECIDED of each page, from an answer's bits."""
    assert not (zero & normal).any()
    return np.where(zero, ZERO, np.where(normal, NORMAL, UNDECIDED)).astype(np.uint8)


def assert_right(found: np.ndarray, may: np.ndarray) -> None:
    """Every page has an answer that may be given of it."""
    assert len(found) == len(may)
    wrong = np.flatnonzero((found & may) == 0)
    names = {ZERO: "zero", NORMAL: "normal", UNDECIDED: "undecided"}
    shown = [
        f"page {page} is {names[int(found[page])]}, may be "
        + " or ".join(name for bit, name in names.items() if may[page] & bit)
        for page in wrong[:8].tolist()
    ]
    assert not shown, f"{len(wrong)} of {len(may)} pages: {'; '.join(shown)}"


@contextlib.contextmanager
def swap_file(mib: int = 64) -> Iterator[None]:
    """Swap of its own, taken away whatever happens; skips where there can be none."""
    if os.geteuid() != 0 or not (shutil.which("mkswap") and shutil.which("swapon")):
        pytest.skip("swap needs root, mkswap and swapon")
    fd, name = tempfile.mkstemp(prefix="pctest-swap-", dir="/var/tmp")
    try:
        with os.fdopen(fd, "wb") as file:
            for _ in range(mib):
                file.write(bytes(1 << 20))
        subprocess.run(["mkswap", name], check=True, capture_output=True, timeout=60)
        on = subprocess.run(["swapon", name], capture_output=True, text=True, timeout=60)
        if on.returncode != 0:
            pytest.skip(f"no swap here: {on.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run(["swapoff", name], check=True, capture_output=True, timeout=60)
    finally:
        os.unlink(name)
