"""Private memory of another process as a source: read through the process, never mapped.

Facts: a descriptor of /proc/PID/pagemap stays with the address space that it was opened on, and
reports nothing of it after an exec or the process's end. Whoever may ptrace a process may copy its
memory with process_vm_readv(2), which does not stop it. A read of a page that is absent allocates a
page table or a huge zero page in the process.
Decision: what the page tables say comes first; an absent page is never read, and what it means is
said by the piece of the block that it lies in. What was read counts only if the process and its
mappings are proved at the end to be those of the beginning.
"""

from __future__ import annotations

import os
import sys

from pagecheck.native import ProcessWalk, _native
from pagecheck.shm.rest import PROCESS_RUNS

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, NamedTuple

    from pagecheck.model import RamBlock
else:
    from pagecheck.typed import NamedTuple


class Piece(NamedTuple):
    """A part of a block in which an absent page always means the same.

    Attributes:
        begin, end: byte offsets in the block, multiples of 4096.
        absent: one of `_native.ABSENT_ZERO` (anonymous memory), `ABSENT_FILE` (the page of the file
            that is mapped privately), `ABSENT_UNDECIDED` (it may not have arrived, or its file is
            not known) and `UNREADABLE` (nothing of the piece is guest RAM that may be read).
        file_offset: with `ABSENT_FILE`, the byte offset in the file of `begin`.
    """

    begin: int
    end: int
    absent: int
    file_offset: int = 0


class ProcessRam:
    """One RAM block in the private memory of a process.

    Attributes:
        text: the source as the user named it.
        name: the block's name.
        size: bytes; it does not change.
        allocated: bytes that were present, or had to be copied, when it was opened.
        fd: the process's pagemap.
        memory_fd: the process's memory, for pages that it shares with other processes.
        pid: the process, in our namespace.
        base: address of the block's first byte.
        pieces: in order and without a gap, from 0 to `size`; at most `_native.PIECES_MAX`.
        file_fd: the file behind pieces with `ABSENT_FILE`; -1: there are none.
        read_swapped: pages that are swapped out are read, which brings them in.
        notes: for the user, independent of what a scan finds.
    """

    looks_dense: Final = False
    holes_are_proof: Final = True
    is_file: Final = False
    is_known_file_system: Final = True  # the kernel itself serves it
    why_not_mapped: Final = "is private memory of a process, which nobody else can map"

    def __init__(
        self,
        text: str,
        name: str,
        size: int,
        *,
        fd: int,
        memory_fd: int,
        pid: int,
        base: int,
        pieces: Sequence[Piece],
        file_fd: int = -1,
        read_swapped: bool = False,
        allocated: int | None = None,
        notes: tuple[str, ...] = (),
        verify: Callable[[], str | None],
        release: Callable[[], None] | None = None,
    ) -> None:
        """Takes over the descriptors.

        Args:
            verify: why nothing that was read can be believed; None: the process and its mappings
                are those of the beginning. Called from any thread.
            release: called when it is closed.
        """
        self.text, self.name, self.size = text, name, size
        self.fd, self.pid, self.base = fd, pid, base
        self.pieces = tuple(pieces)
        self.memory_fd, self.file_fd = memory_fd, file_fd
        self.read_swapped = read_swapped
        self.allocated = size if allocated is None else allocated
        self.notes = notes
        self._verify = verify
        self._release = release
        words = (word for piece in self.pieces for word in piece)
        self._packed = b"".join(word.to_bytes(8, sys.byteorder) for word in words)

    def duplicate(self) -> ProcessRam:
        """The same block once more, with descriptors of its own; closed before this one."""
        fds = {fd: os.dup(fd) for fd in {self.fd, self.memory_fd, self.file_fd} - {-1}}
        return ProcessRam(
            self.text,
            self.name,
            self.size,
            fd=fds[self.fd],
            memory_fd=fds[self.memory_fd],
            pid=self.pid,
            base=self.base,
            pieces=self.pieces,
            file_fd=fds.get(self.file_fd, -1),
            read_swapped=self.read_swapped,
            allocated=self.allocated,
            verify=self._verify,
        )

    def can_map(self, _start: int, _size: int) -> bool:
        """False: nobody else can map it."""
        return False

    def attachment(self, start: int, **_how: bool) -> dict[str, object]:
        """As `RamSource.attachment`; `start` is 0."""
        return {
            "pid": self.pid,
            "base": self.base + start,
            "read_swapped": self.read_swapped,
            "pieces": self._packed.hex(),
        }

    @property
    def attachment_fds(self) -> tuple[int, ...]:
        """As `RamSource.attachment_fds`."""
        fds = self.fd, self.memory_fd
        return fds if self.file_fd < 0 else (*fds, self.file_fd)

    def walk(self, ram: RamBlock, hole: memoryview, zero: memoryview) -> ProcessWalk:
        """A walk over its pages; as `RamSource.walk`."""
        return ProcessWalk(self.fd, self.base, ram.page_size, ram.pages, self._packed, hole, zero)

    def watch(self) -> Running:
        """What `Rest` is for a file."""
        return Running(self.size)

    def verify(self) -> str | None:
        """Why nothing that was read until now can be believed, or None."""
        return self._verify()

    def swapped(self, ram: RamBlock, zero: memoryview, normal: memoryview) -> int:
        """How many pages that have neither bit are swapped out now; 0 where such pages are read:
        what is left has the entry of a guard page or a marker, and cannot be read."""
        if self.read_swapped:
            return 0
        return _native.swapped_pages(self.fd, self.base, ram.page_size, ram.pages, zero, normal)

    def close(self) -> None:
        """Closes the descriptors. May be called twice."""
        for fd in {self.fd, self.memory_fd, self.file_fd} - {-1}:
            os.close(fd)
        self.fd = self.memory_fd = self.file_fd = -1
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> ProcessRam:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Running:
    """What `Rest` is for a file: memory of a process is never at rest by itself."""

    def __init__(self, size: int) -> None:
        self.size = self.size_after = size

    def end(self) -> str:
        """Why the answer is live."""
        return PROCESS_RUNS

    def close(self) -> None:
        """There is nothing to close."""
