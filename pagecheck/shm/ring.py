"""One channel's ring in shared memory, and the control segment of the worker behind it."""

from __future__ import annotations

import os
import struct

from pagecheck.native import _native
from pagecheck.shm.layout import CONTROL, FAILURE, STATS_WORDS, segment_bytes
from pagecheck.shm.owner import Owner
from pagecheck.shm.segments import Segment

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Protocol
else:
    from pagecheck.typed import Protocol


class Ring(Protocol):
    """A ring as the supervisor of its worker sees it.

    Attributes:
        fd: the segment's descriptor, for the worker and the submitter.
        control_fd: the control segment's, for the worker only.
    """

    @property
    def fd(self) -> int: ...  # noqa: D102

    @property
    def control_fd(self) -> int: ...  # noqa: D102


class NamedRing:
    """A ring that its creator submits to. A replacement worker gets a new one under new names."""

    def __init__(
        self, owner: Owner, channel: int, generation: int, slots: int, slot_pages: int
    ) -> None:
        """Creates the segments.

        Raises:
            ResourceError: /dev/shm is full.
        """
        base = owner.name(f"c{channel}g{generation}")
        self._segment = Segment(f"{base}-ring", segment_bytes(slots, slot_pages))
        self._control: Segment | None = None
        try:
            _native.segment_format(self._segment.fd, slots, slot_pages, generation)
            self._control = Segment(f"{base}-control", _native.CONTROL_BYTES)
        except BaseException:
            self.remove()
            raise

    @property
    def fd(self) -> int:
        """The segment's descriptor."""
        return self._segment.fd

    @property
    def control_fd(self) -> int:
        """The control segment's descriptor."""
        return self._control.fd if self._control is not None else -1

    @property
    def segment_name(self) -> str:
        """The segment's POSIX name."""
        return self._segment.name

    def statistics(self) -> list[int]:
        """What the worker has counted: the words of `layout.STATS`; zeros once it is removed."""
        return read_statistics(self.control_fd)

    def failure(self) -> tuple[bytes, bytes] | None:
        """The worker's first failing descriptor and its record, if there is one."""
        return read_failure(self.control_fd)

    def remove(self) -> None:
        """Removes the names; mappings and descriptors stay valid. May be called twice."""
        for segment in (self._segment, self._control):
            if segment is not None:
                segment.remove()
                segment.close()


def read_statistics(control_fd: int) -> list[int]:
    """The words of `layout.STATS` in a control segment; zeros where it is closed."""
    if control_fd < 0:
        return [0] * STATS_WORDS
    stats = CONTROL["stats"]
    raw = os.pread(control_fd, stats.size, stats.offset)
    return list(struct.unpack(f"={STATS_WORDS}Q", raw))


def read_failure(control_fd: int) -> tuple[bytes, bytes] | None:
    """The first failing descriptor and its record in a control segment; None where there is none.

    Danger: `kept` is stored last, so it is read first.
    """
    if control_fd < 0:
        return None

    def read(name: str) -> bytes:
        field = FAILURE[name]
        return os.pread(control_fd, field.size, CONTROL["failure"].offset + field.offset)

    if not any(read("kept")):
        return None
    return read("descriptor"), read("record")
