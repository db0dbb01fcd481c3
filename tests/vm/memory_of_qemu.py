"""Guest RAM as QEMU itself writes it, judged by numpy.

QEMU reads every page for it, also those that were never touched: what is to be compared with them
comes first.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path

import numpy as np

from tests.support.bitmaps import Bools
from tests.support.rams import PAGE
from tests.support.target import PAGEOUT
from tools.guest import Guest

PROCESS_MADVISE = 440  # of asm-generic/unistd.h

# Behind these addresses a CPU finds video memory and firmware, and not the RAM that lies there.
HIDDEN = slice(0xA0000 // PAGE, 0x100000 // PAGE)


def _zero(content: np.ndarray) -> Bools:
    found: Bools = ~content.reshape(-1, PAGE).any(axis=1)
    return found


def by_pmemsave(guest: Guest, folder: Path) -> Bools:
    """Which guest-physical pages are zero, by pmemsave."""
    path = folder / "pmemsave"
    guest.qmp("pmemsave", val=0, size=guest.spec.size_bytes, filename=str(path), within_s=60)
    return _zero(np.fromfile(path, np.uint8))


def by_dump(guest: Guest, folder: Path) -> Bools:
    """Which guest-physical pages are zero, by dump-guest-memory (an ELF core)."""
    path = folder / "dump"
    guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}", within_s=60)
    with path.open("rb") as file:
        head = file.read(64)
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(table)
        segments = [struct.unpack_from("<IIQQQQ", file.read(size)) for _ in range(count)]
    zero = np.ones(guest.spec.size_bytes // PAGE, bool)
    seen = np.zeros_like(zero)
    for kind, _flags, offset, _virtual, physical, length in segments:
        if kind == 1 and physical + length <= guest.spec.size_bytes:  # PT_LOAD, and none of ROM
            part = np.fromfile(path, np.uint8, length // PAGE * PAGE, offset=offset)
            pages = slice(physical // PAGE, physical // PAGE + length // PAGE)
            zero[pages], seen[pages] = _zero(part), True
    seen[HIDDEN] = True
    assert seen.all()
    return zero


def by_process(guest: Guest) -> Bools:
    """Which pages of guest RAM are zero, by QEMU's memory, hidden ones too."""
    parts = []
    with open(f"/proc/{guest.pid}/mem", "rb", buffering=0) as memory:
        half = guest.spec.size_bytes // (2 if guest.spec.backend == "numa" else 1)
        for first in range(0, guest.spec.size_bytes, half):
            memory.seek(address_of(guest, first))
            parts.append(_zero(np.frombuffer(memory.read(half), np.uint8)))
    return np.concatenate(parts)


def address_of(guest: Guest, place: int) -> int:
    """Where in QEMU's memory a guest-physical address lies."""
    where = guest.qmp("human-monitor-command", **{"command-line": f"gpa2hva {place}"})
    found = re.search(r"is (0x[0-9a-f]+)", where)
    assert found is not None, where
    return int(found[1], 16)


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def swap_out(guest: Guest, first: int, size: int) -> None:
    """Has pages of guest RAM swapped out, as a host that is short of memory would.

    Raises:
        OSError: the kernel does not (ENOSYS: before Linux 5.10).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(guest.pid)
    try:
        piece = _Piece(address_of(guest, first), size)
        place = ctypes.byref(piece)
        if libc.syscall(PROCESS_MADVISE, pidfd, place, ctypes.c_size_t(1), PAGEOUT, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)
