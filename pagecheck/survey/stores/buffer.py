"""The memory that objects' bytes come into, and that workers look at.

Facts: it is a memfd of a fixed size, which every coordinator of this process attaches as a block,
and whose workers map it. Its slots are used again and again. Danger: a page whose bytes did not
arrive still holds those of another object, which may be zeros. Decision: a slot is looked at only
when every byte of its part was counted; as a second proof, before a slot is filled every page gets
a byte that is not zero. A slot that somebody may still write to is not used again.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

import numpy as np

from pagecheck.errors import UsageError
from pagecheck.plan import PAGE_MIN
from pagecheck.shortage import refused

if TYPE_CHECKING:
    from collections.abc import Callable

PART_MAX_BYTES: Final = 16 << 20  # botocore takes a millisecond to sign a request
PARTS: Final = 8  # that many requests at once at least, where there is room
IN_FLIGHT_MIN: Final = 1 << 20

_NOT_ZERO: Final = 0xFF


class Buffer:
    """The slots of one process, which bound the bytes that are in flight.

    Attributes:
        fd: the memfd.
        part_bytes: of a slot.
        slots: how many there are.
    """

    def __init__(self, in_flight: int, page_size: int) -> None:
        """Allocates it.

        Args:
            in_flight: bytes of all slots.
            page_size: that parts are multiples of.

        Raises:
            UsageError: it is too small, or more than half of the host's memory.
            ResourceError: there is no memory for it.
        """
        least = max(IN_FLIGHT_MIN, 2 * page_size)
        if in_flight < least:
            raise UsageError(f"in flight {in_flight}: must be at least {least} bytes")
        # The kernel would give all it has, and end other processes.
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        if in_flight > most:
            raise UsageError(f"in flight {in_flight}: must be at most {most}, half of the memory")
        part = min(PART_MAX_BYTES, in_flight // PARTS) // page_size * page_size
        self.part_bytes = max(part, page_size)
        self.slots = in_flight // self.part_bytes
        size = self.slots * self.part_bytes
        self.fd = os.memfd_create("pagecheck-objects", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(self.fd, 0, size)
            self._map = mmap.mmap(self.fd, size)
        except OSError as error:
            os.close(self.fd)
            raise refused(f"cannot get {size} bytes for what is in flight", error) from error
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._bytes[::PAGE_MIN] = _NOT_ZERO  # there are no holes from now on
        self._free = list(range(self.slots))
        self._users = 0
        self._changed = threading.Condition()
        weakref.finalize(self, os.close, self.fd)

    def begin(self) -> None:
        """A piece more is read."""
        with self._changed:
            self._users += 1

    def end(self) -> None:
        """The counterpart of `begin`."""
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def take(self, held: int, is_ended: Callable[[], bool]) -> int | None:
        """A slot for whoever holds that many.

        Args:
            is_ended: whether to wait no longer; asked several times a second.

        Returns:
            None: there is none at this moment, or it holds its share of them; whoever holds none
            gets one in the end.
        """
        with self._changed:
            while not is_ended():
                if self._free and held < -(-self.slots // max(self._users, 1)):
                    slot = self._free.pop()
                    self._mark(slot)
                    return slot
                if held:
                    return None
                self._changed.wait(0.1)
        return None

    def put_back(self, slot: int) -> None:
        """Nobody writes to it any more."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def view(self, slot: int, size: int) -> memoryview:
        """The first bytes of a slot."""
        at = slot * self.part_bytes
        return memoryview(self._map)[at : at + size]

    def offset(self, slot: int) -> int:
        """Where a slot begins, in bytes."""
        return slot * self.part_bytes

    def _mark(self, slot: int) -> None:
        at = self.offset(slot)
        self._bytes[at : at + self.part_bytes : PAGE_MIN] = _NOT_ZERO


_lock = threading.Lock()
_buffers: weakref.WeakValueDictionary[tuple[int, int, int], Buffer] = weakref.WeakValueDictionary()


def shared_buffer(in_flight: int, page_size: int) -> Buffer:
    """The one of this process, which stays as long as somebody has it."""
    with _lock:
        key = (os.getpid(), in_flight, page_size)
        found = _buffers.get(key)
        if found is None:
            found = _buffers[key] = Buffer(in_flight, page_size)
        return found
