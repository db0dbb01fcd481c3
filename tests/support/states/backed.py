"""Memory behind which there is a file, or a reserve of huge pages."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.support import target as t
from tests.support.kernel_settings import alone
from tests.support.rams import NR_HUGE, PAGE
from tests.support.states.registry import PAGES, PER_HUGE, anonymous, state
from tests.support.target import Area, Target
from tests.support.waiting import holds_within


@state
def the_zero_device(target: Target, _stack: contextlib.ExitStack) -> Area:
    """A private mapping of /dev/zero: anonymous, with the name of a file."""
    fd = target.open("/dev/zero")
    area = Area(target, target.map(PAGES, flags=t.PRIVATE, fd=fd), PAGES)
    area.mix(pages=range(500))
    area.may |= t.UNDECIDED
    return area


@state
def shared_anonymous(target: Target, _stack: contextlib.ExitStack) -> Area:
    """Not private: what no page table maps may have bytes."""
    area = Area(target, target.map(PAGES, flags=t.SHARED | t.ANONYMOUS), PAGES)
    area.data(0, 300)
    area.zeros(300, 100)
    area.advise(100, 100, t.DONTNEED)  # the pages stay, in the file
    area.may |= t.UNDECIDED
    return area


@state
def shared_memfd(target: Target, _stack: contextlib.ExitStack) -> Area:
    fd = target.memfd(PAGES * PAGE)
    area = Area(target, target.map(PAGES, flags=t.SHARED, fd=fd), PAGES)
    area.data(0, 300)
    area.advise(100, 100, t.DONTNEED)
    area.may |= t.UNDECIDED
    return area


def folder(stack: contextlib.ExitStack, where: str = "/dev/shm") -> Path:
    made = tempfile.TemporaryDirectory(prefix="pctest-", dir=where)
    return Path(stack.enter_context(made))


def file_content(seed: int = 3) -> tuple[bytes, np.ndarray]:
    """Bytes of a file whose last page is a part, and what its pages are."""
    rng = np.random.default_rng(seed)
    pages = rng.integers(0, 2, 1000).astype(bool)
    content = b"".join(bytes(PAGE) if zero else bytes(PAGE - 1) + b"\1" for zero in pages)
    return content + bytes(99) + b"\1", np.append(pages, False)


def private_file(target: Target, path: str | os.PathLike[str] | int) -> Area:
    """A private mapping of a file with `file_content`: untouched, read, written, beyond the end."""
    _, zero = file_content()
    fd = path if isinstance(path, int) else target.open(path)
    area = Area(target, target.map(PAGES, flags=t.PRIVATE, fd=fd), PAGES)
    area.may[: len(zero)] = np.where(zero, t.RIGHT_ZERO, t.RIGHT_NORMAL)
    area.may[len(zero) :] = t.UNDECIDED
    area.touch(100, 100)
    area.zeros(150, 100)
    area.data(300, 50)
    area.byte(400, PAGE - 1)
    return area


@state
def private_file_on_disk(target: Target, stack: contextlib.ExitStack) -> Area:
    path = folder(stack, "/var/tmp") / "file"
    path.write_bytes(file_content()[0])
    return private_file(target, path)


@state
def private_file_on_tmpfs(target: Target, stack: contextlib.ExitStack) -> Area:
    path = folder(stack) / "file"
    with path.open("wb") as file:
        write_sparse(file.fileno())
    return private_file(target, path)


@state
def private_file_without_a_name(target: Target, stack: contextlib.ExitStack) -> Area:
    with tempfile.NamedTemporaryFile(prefix="pctest-", dir="/dev/shm") as file:
        write_sparse(file.fileno())
        return private_file(target, file.name)


@state
def private_memfd(target: Target, _stack: contextlib.ExitStack) -> Area:
    fd = target.memfd(0)
    mine = os.open(f"/proc/{target.pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    write_sparse(mine)
    os.close(mine)
    return private_file(target, fd)


def write_sparse(fd: int) -> None:
    """The same content, with holes where it is zero."""
    content, zero = file_content()
    os.ftruncate(fd, len(content))
    for page in np.flatnonzero(~zero).tolist():
        os.pwrite(fd, content[page * PAGE : (page + 1) * PAGE], page * PAGE)


@state
def anonymous_beside_files(target: Target, stack: contextlib.ExitStack) -> Area:
    """Anonymous memory, then a file, then another one, then the first again at another offset."""
    area = anonymous(target)
    area.mix(pages=range(200))
    content, zero = file_content()
    for at, first, name in ((300, 50, "a"), (600, 0, "b"), (900, 200, "a")):
        path = folder(stack) / name
        path.write_bytes(content)
        fd = target.open(path)
        target.map(200, flags=t.PRIVATE, fd=fd, offset=first * PAGE, at=area.at(at))
        kept = zero[first : first + 200]
        area.may[at : at + 200] = np.where(kept, t.RIGHT_ZERO, t.RIGHT_NORMAL)
    area.zeros(310, 3)
    area.data(650, 3)
    return area


def reserve_huge(stack: contextlib.ExitStack, pages: int) -> None:
    """Raises the host's reserve of 2 MiB pages while the stack lasts."""
    stack.enter_context(alone())
    try:
        before = int(NR_HUGE.read_text())
        NR_HUGE.write_text(str(before + pages))
    except OSError as error:
        pytest.skip(f"pages of 2 MiB cannot be reserved: {error.strerror}")
    stack.callback(_release_huge, pages)
    if int(NR_HUGE.read_text()) < before + pages:
        pytest.skip(f"{NR_HUGE} cannot be raised: no free memory in one piece")


def _release_huge(pages: int) -> None:
    """A page that a child still has at its end would be taken for the host's by the next test."""
    free = NR_HUGE.with_name("free_hugepages")
    holds_within(5, lambda: int(free.read_text()) >= pages)
    NR_HUGE.write_text(str(max(0, int(NR_HUGE.read_text()) - pages)))


@state
def hugetlb(target: Target, stack: contextlib.ExitStack) -> Area:
    reserve_huge(stack, 3)
    flags = t.PRIVATE | t.ANONYMOUS | t.HUGETLB
    area = Area(target, target.map(PAGES, flags=flags), PAGES)
    area.byte(PER_HUGE + 9, PAGE - 1)
    area.zeros(2 * PER_HUGE)
    area.may[:PER_HUGE] = t.UNDECIDED  # absent: it may be about to be replaced
    return area


@state
def hugetlb_file(target: Target, stack: contextlib.ExitStack) -> Area:
    """A private mapping of a file of huge pages: the first is the file's, the others are not."""
    reserve_huge(stack, 7)
    fd = target.memfd(PAGES * PAGE, os.MFD_CLOEXEC | os.MFD_HUGETLB)
    shared = Area(target, target.map(PAGES, flags=t.SHARED, fd=fd), PAGES)
    shared.byte(3, 0)
    area = Area(target, target.map(PAGES, flags=t.PRIVATE, fd=fd), PAGES)
    area.may[:PER_HUGE] = area.may[2 * PER_HUGE :] = t.UNDECIDED
    area.byte(PER_HUGE + 9, PAGE - 1)
    return area
