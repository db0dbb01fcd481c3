"""What QEMU itself says of pages: the records of its migration stream.

Source: QEMU, migration/savevm.c and migration/ram.c, stream version 3 with section "ram" version 4.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE = 4096
MAGIC = 0x5145564D
ZERO, MEM_SIZE, RECORD, END, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20


class _Stream:
    def __init__(self, raw: bytes) -> None:
        self._file = io.BytesIO(raw)

    def take(self, count: int) -> bytes:
        found = self._file.read(count)
        assert len(found) == count, "the stream ends early"
        return found

    def u8(self) -> int:
        return self.take(1)[0]

    def be32(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def be64(self) -> int:
        return int(struct.unpack(">Q", self.take(8))[0])

    def name(self) -> str:
        return self.take(self.u8()).decode()


def zero_records(path: Path, block: str, pages: int) -> npt.NDArray[np.bool_]:
    """bool[pages]: True where the last record of the page was a zero record."""
    return records(path, block, pages)[0]


def records(
    path: Path, block: str, pages: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Reads the RAM part of a stream; what devices sent behind it is left unread.

    Returns:
        bool[pages]: True where the last record of the page was a zero record; and int64[pages]: how
        often it was sent: once, and again after each pass in which it was written to.
    """
    stream = _Stream(path.read_bytes())
    assert stream.be32() == MAGIC
    assert stream.be32() == 3
    zero = np.zeros(pages, np.bool_)
    times = np.zeros(pages, np.int64)
    ram_section: int | None = None
    last = [""]
    while (kind := stream.u8()) in (1, 2, 3, 7):
        if kind == 7:
            stream.take(stream.be32())
            continue
        section = stream.be32()
        if kind == 1:
            name = stream.name()
            stream.be32()
            assert stream.be32() == 4 or name != "ram"
            if name == "ram":
                ram_section = section
        if section != ram_section:
            break  # a device's own format: the RAM is complete by then
        _records(stream, block, zero, times, last)
        assert stream.u8() == 0x7E
        assert stream.be32() == section
    assert times.all(), "not every page is in the stream"
    return zero, times


def _records(
    stream: _Stream,
    block: str,
    zero: npt.NDArray[np.bool_],
    times: npt.NDArray[np.int64],
    last: list[str],
) -> None:
    while True:
        word = stream.be64()
        flags, address = word & (PAGE - 1), word & ~(PAGE - 1)
        if flags & END:
            return
        if flags & MEM_SIZE:
            left = address
            while left:
                stream.name()
                left -= stream.be64()
            continue
        assert flags & ~CONTINUE in (ZERO, RECORD), f"record with flags {flags:#x}"
        if not flags & CONTINUE:
            last[0] = stream.name()
        is_zero = bool(flags & ZERO)
        if is_zero:
            assert stream.u8() == 0
        else:
            stream.take(PAGE)
        if last[0] == block:
            zero[address // PAGE] = is_zero
            times[address // PAGE] += 1
