"""One channel's ring in shared memory: its segment and its two semaphores."""

from __future__ import annotations

import contextlib
import os
import struct

import posix_ipc

from pagecheck.errors import ResourceError
from pagecheck.native import _native
from pagecheck.shm.layout import STATS_OFFSET, STATS_WORDS, segment_bytes
from pagecheck.shm.owner import Owner
from pagecheck.shm.segments import Segment


class Ring:
    """A ring as its creator sees it. A replaced worker gets a new one under new names.

    Attributes:
        fd: the segment's descriptor, to be passed on to the worker.
        submit_name: semaphore that the coordinator posts and the worker waits for.
        done_name: the other direction.
    """

    def __init__(
        self, owner: Owner, channel: int, generation: int, slots: int, slot_pages: int
    ) -> None:
        """Creates the segment and the semaphores.

        Raises:
            ResourceError: /dev/shm has no room.
        """
        base = owner.name(f"c{channel}g{generation}")
        self.submit_name = f"{base}-submit"
        self.done_name = f"{base}-done"
        self._semaphores: list[str] = []
        self._segment = Segment(f"{base}-ring", segment_bytes(slots, slot_pages))
        try:
            _native.segment_format(self._segment.fd, slots, slot_pages, generation)
            for name in (self.submit_name, self.done_name):
                self._create_semaphore(name)
        except BaseException:
            self.remove()
            raise

    def _create_semaphore(self, name: str) -> None:
        try:
            posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=0).close()
        except (posix_ipc.Error, OSError) as error:
            raise ResourceError(f"/dev/shm/sem.{name[1:]}: cannot create: {error}") from error
        self._semaphores.append(name)

    @property
    def fd(self) -> int:
        """The segment's descriptor."""
        return self._segment.fd

    @property
    def segment_name(self) -> str:
        """The segment's POSIX name."""
        return self._segment.name

    def statistics(self) -> list[int]:
        """What the worker has counted: the words of `layout.STATS`; zeros once it is removed."""
        if self._segment.fd < 0:
            return [0] * STATS_WORDS
        raw = os.pread(self._segment.fd, STATS_WORDS * 8, STATS_OFFSET)
        return list(struct.unpack(f"={STATS_WORDS}Q", raw))

    def remove(self) -> None:
        """Removes every name; what is mapped or open stays usable. May be called twice."""
        while self._semaphores:
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_semaphore(self._semaphores.pop())
        self._segment.remove()
        self._segment.close()
