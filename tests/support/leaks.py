"""Whether calls leave something behind: memory, descriptors, mappings or threads of this process.

Facts: memory of Python's grows in blocks, that of C in the allocator's chunks of at least 24 bytes
(some of which a thread keeps for later), descriptors and threads by one. An anonymous mapping may
merge with its neighbour: then only the address space has grown. Decision: what leaks grows by a
unit per call in every round, less a quarter for what others free meanwhile; what is kept for later
stops to grow after some.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

# What one leaking call adds at least, by what grows.
UNITS: Final[Mapping[str, int]] = {
    "blocks of Python": 1,
    "bytes of C": 24,
    "descriptors": 1,
    "mappings": 1,
    "bytes of address space": os.sysconf("SC_PAGESIZE"),
    "threads": 1,
    "references": 1,
}


class _Mallinfo2(ctypes.Structure):
    """Source: mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _allocated() -> Callable[[], int]:
    """Bytes that malloc has given away; always 0 where the C library does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):  # glibc before 2.33
        return lambda: 0
    libc.mallinfo2.restype = _Mallinfo2

    def count() -> int:
        told = libc.mallinfo2()
        return int(told.uordblks + told.hblkhd)

    return count


_bytes_of_c: Final = _allocated()


def _now(referenced: Sequence[object]) -> dict[str, int]:
    gc.collect()
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        mappings = sum(1 for _ in maps)
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[0])
    return {
        "blocks of Python": sys.getallocatedblocks(),
        "bytes of C": _bytes_of_c(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": mappings,
        "bytes of address space": pages * os.sysconf("SC_PAGESIZE"),
        "threads": len(os.listdir("/proc/self/task")),
        "references": sum(map(sys.getrefcount, referenced)),
    }


def leaks(
    call: Callable[[], object],
    *,
    referenced: Sequence[object] = (),
    calls: int = 24,
    rounds: int = 24,
) -> dict[str, int]:
    """What grows with every call, by how much in the last round; empty: nothing.

    Args:
        call: what is looked at; it is called `calls` times a round.
        referenced: objects that outlive the calls and should have no more references afterwards.
        calls: more than a thread or the allocator keeps for later.
        rounds: after each, what did not grow by about a unit per call is no leak. (Python 3.15
            goes on to optimise what is called for some rounds.)
    """
    call()
    suspects = dict.fromkeys(UNITS, 0)
    before = _now(referenced)
    for _ in range(rounds):
        for _ in range(calls):
            call()
        after = _now(referenced)
        grown = {name: after[name] - before[name] for name in suspects}
        suspects = {name: by for name, by in grown.items() if 4 * by >= 3 * calls * UNITS[name]}
        if not suspects:
            break
        before = after
    return suspects
