"""The memory of answers, for as long as clients keep them.

Facts: an answer's memfd is charged to the service until the last that refers to it is gone: a
descriptor (one on its way, or opened with O_PATH, too) or a mapping, whoever has it. The service
gets no notice of that; but a watch on an inode ends with the inode.
Danger: a client that keeps answers, or leaves them to another process, until the service is killed
because memory is short.
Decision: every answer is watched and counts, for the client that asked for it, until its watch is
gone. There is a limit per client, and one for all clients together, also those that have left.

Source: inotify(7); inotify_fdinfo() in fs/notify/fdinfo.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from typing import Final, NamedTuple

from pagecheck.errors import LimitError, PagecheckError, ResourceError
from pagecheck.native import _native
from pagecheck.shm.segments import Memfd
from pagecheck.shortage import CGROUPS, cgroups, refused

PAGE_BYTES: Final = 4096
OVERHEAD_BYTES: Final = 4096  # the inode, its watch and what else the kernel keeps of it
EACH_SHARE: Final = 64  # of the memory that the service may use
ALL_SHARE: Final = 4
LEAST_BYTES: Final = 1 << 24
EVENTS_BYTES: Final = 1 << 16
LOOK_AT_LEAST: Final = 64  # answers that count, before it is looked which of them are released


class _Kept(NamedTuple):
    client: object
    size: int


class Answers:
    """Any thread may use it."""

    def __init__(self, most_each: int, most_all: int) -> None:
        """Nothing is kept yet.

        Args:
            most_each: bytes of one client's answers.
            most_all: bytes of all answers.

        Raises:
            ResourceError: this user has no watch left.
        """
        self._most_each = most_each
        self._most_all = most_all
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}  # by watch
        self._sums: Counter[object] = Counter()
        self._look_at = LOOK_AT_LEAST
        try:
            self._watch = _native.watch_ends_open()
        except OSError as error:
            raise _unwatched(error) from error

    def allocate(self, client: object, name: str, size: int) -> Memfd:
        """Memory for one answer; it counts until no process has it any longer.

        Args:
            client: who asks; any object that represents it.

        Raises:
            LimitError: too much is kept.
            ResourceError: memory is short, or it cannot be watched.
        """
        kept = _Kept(client, -(-size // PAGE_BYTES) * PAGE_BYTES + OVERHEAD_BYTES)
        with self._lock:
            if not self._fits(client, kept.size):
                self._forget_released()
            self._require(client, kept.size)
            self._sums[client] += kept.size
        memory: Memfd | None = None
        try:
            memory = Memfd(name, size)
            with self._lock:
                self._keep(memory.fd, kept)
        except BaseException:
            if memory is not None:
                memory.close()
            with self._lock:
                self._forget(kept)
            raise
        return memory

    def count(self, owner: object, size: int) -> None:
        """Counts other memory of that many bytes as if it were an answer, for good.

        Args:
            owner: whom it counts for; any object that represents it.
        """
        with self._lock:
            self._sums[owner] += size

    def bytes_kept(self, client: object | None = None) -> int:
        """Bytes that are kept now, by one client or, with None, by all."""
        with self._lock:
            self._forget_released()
            return self._sum(client)

    def close(self) -> None:
        """Stops watching. May be called twice."""
        with self._lock:
            if self._watch >= 0:
                os.close(self._watch)
                self._watch = -1

    def _sum(self, client: object | None) -> int:
        return self._sums.total() if client is None else self._sums[client]

    def _fits(self, client: object, more: int) -> bool:
        return (
            self._sum(client) + more <= self._most_each and self._sum(None) + more <= self._most_all
        )

    def _require(self, client: object, more: int) -> None:
        if self._fits(client, more):
            return
        mine, of_all = self._sum(client), self._sum(None)
        if mine + more > self._most_each:
            kept = (
                f"{mine} bytes are kept by this client already; it may keep {self._most_each} "
                "(--max-memory): close what is no longer needed, or ask for fewer blocks at once"
            )
        else:
            kept = (
                f"{of_all} bytes are kept by all clients, of {self._most_all} that they may "
                "keep together; try again later"
            )
        raise LimitError(f"this answer takes {more} bytes, and answers of {kept}")

    def _keep(self, fd: int, kept: _Kept) -> None:
        if self._watch < 0:  # the service ends, and everything with it
            return
        try:
            number = _native.watch_ends_add(self._watch, fd)
        except OSError as error:
            raise _unwatched(error) from error
        self._kept[number] = kept
        if len(self._kept) >= self._look_at:  # what is released must not pile up here either
            self._forget_released()
            self._look_at = max(LOOK_AT_LEAST, 2 * len(self._kept))

    def _forget(self, kept: _Kept) -> None:
        self._sums[kept.client] -= kept.size
        if not self._sums[kept.client]:
            del self._sums[kept.client]

    def _forget_released(self) -> None:
        """Forgets answers that no process has any longer: their watches are gone."""
        if self._watch < 0 or not self._kept:
            return
        with contextlib.suppress(BlockingIOError):  # the events themselves are not needed
            while os.read(self._watch, EVENTS_BYTES):
                pass
        try:
            there = _watches(self._watch)
        except OSError as error:  # no descriptor is left: everything still counts
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            return
        for number in self._kept.keys() - there:
            self._forget(self._kept.pop(number))


def _watches(watch: int) -> set[int]:
    """Numbers of the watches that there are."""
    with open(f"/proc/self/fdinfo/{watch}", encoding="ascii") as file:
        words = [line.split()[1] for line in file if line.startswith("inotify ")]
    return {int(word.removeprefix("wd:"), 16) for word in words}


def _unwatched(error: OSError) -> PagecheckError:
    limits = {errno.EMFILE: "max_user_instances", errno.ENOSPC: "max_user_watches"}
    if error.errno in limits:
        return ResourceError(
            "answers cannot be watched: this user has no watch left (sysctl fs.inotify."
            f"{limits[error.errno]}); raise that"
        )
    return refused("answers cannot be watched", error, "inotify_init1 or inotify_add_watch")


def usable_memory(membership: str = "/proc/self/cgroup", root: str = CGROUPS) -> int:
    """Bytes that this process may use: the host's memory, or what its cgroups allow.

    Source: cgroup-v2.rst, memory.max; cgroup-v1/memory.rst, memory.limit_in_bytes.
    """
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in cgroups("memory", membership, root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError), open(f"{folder}/{name}") as file:
                most = min(most, int(file.read()))
    return most


def default_memory(usable: int) -> tuple[int, int]:
    """How many bytes one client and all clients may keep of the usable memory."""
    of_all = max(usable // ALL_SHARE, LEAST_BYTES)
    return min(max(usable // EACH_SHARE, LEAST_BYTES), of_all), of_all
