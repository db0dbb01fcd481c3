"""Reads the memory of a process in which something is: what is absent is not touched.

A read of an absent page would allocate a page table, or a huge zero page, in the process.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from itertools import groupby
from mmap import PAGESIZE
from typing import Final

from pagecheck.errors import SourceError

_RESIDENT: Final = 3 << 62  # present, or swapped out. Source: Documentation/admin-guide/mm/pagemap
_ENTRY_BYTES: Final = 8
_READ_BYTES: Final = 1 << 20


def read_resident(
    pagemap: int,
    memory: int,
    begin: int,
    end: int,
    *,
    every: bool = False,
    skip_unreadable: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """Reads pages that are present or swapped out.

    Args:
        pagemap, memory: the process's /proc/PID/pagemap and /proc/PID/mem.
        begin, end: addresses, `begin` that of a page.
        every: absent pages are read too: a file is behind them.
        skip_unreadable: leaves out pages that cannot be read, such as the guard pages of threads'
            stacks (MADV_GUARD_INSTALL, glibc 2.42), which look swapped out.

    Yields:
        Address and content of each stretch, at most 1 MiB long.

    Raises:
        SourceError: it cannot be read.
    """
    for low in range(begin, end, _READ_BYTES):
        high = min(end, low + _READ_BYTES)
        for start, stop in [(low, high)] if every else _resident(pagemap, low, high):
            if skip_unreadable:
                yield from _readable(memory, start, stop)
            else:
                yield start, _read(memory, start, stop - start)


def _resident(pagemap: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    pages = -(-(end - begin) // PAGESIZE)
    entries = array("Q")
    entries.frombytes(_read(pagemap, begin // PAGESIZE * _ENTRY_BYTES, pages * _ENTRY_BYTES))
    at = begin
    for is_resident, group in groupby(entries, lambda entry: entry & _RESIDENT != 0):
        after = at + sum(PAGESIZE for _ in group)
        if is_resident:
            yield at, min(after, end)
        at = after


def _readable(memory: int, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    try:
        yield begin, _read(memory, begin, end - begin)
    except SourceError:
        if end - begin > PAGESIZE:
            for page in range(begin, end, PAGESIZE):
                yield from _readable(memory, page, min(end, page + PAGESIZE))


def _read(fd: int, offset: int, count: int) -> bytes:
    try:
        found = os.pread(fd, count, offset)
    except OSError as error:
        raise SourceError(f"the VMM's memory at {offset:#x}: {error.strerror}") from error
    if len(found) != count:
        raise SourceError(f"the VMM's memory at {offset:#x}: ended, or it is being unmapped")
    return found
