"""The file that a block's pages are copied to while they are decided.

Danger: a page that is called normal and is not in the file. Decision: the worker answers it so only
once it is there; what it shares with its coordinator says why a write failed, and a file that was
truncated meanwhile makes every page undecided.
Danger: a page that a worker wrote before it was killed, and that is zero when the next one looks,
since the guest runs. Decision: a worker that took another's place compares, whatever was asked for.
For the same reason a file that was written to is scanned again only where that compares.
Danger: a batch of a scan that ended early is worked on in the next one. Decision: a scan begins
only once the last one's workers are known to write no more.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import threading

from pagecheck.errors import UsageError
from pagecheck.native import _native
from pagecheck.shm.layout import SINK, WORD_BYTES
from pagecheck.shm.ram import DISK, HUGETLBFS, TMPFS

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.model import RamBlock

_O_PATH: Final = getattr(os, "O_PATH", 0)


class Sink:
    """A file, and what the workers have written to it since the last scan began.

    Attributes:
        text: what messages call it.
        fds: the descriptors that a worker gets, which stay this object's.
        truncated: the file became shorter during the last scan, by somebody else.
    """

    def __init__(self, fd: int, offset: int, ram: RamBlock, *, update: bool) -> None:
        """Keeps a duplicate of the descriptor.

        Args:
            offset: where the block's first byte goes, a multiple of 4096.
            update: see `Coordinator.attach`.

        Raises:
            UsageError: the descriptor cannot be written to in this way, or the offset is wrong.
            OSError: there is no descriptor or memory left.
        """
        self.text = _name(fd)
        self._offset = offset
        self._update = update
        self._end = offset + ram.size
        self._page_size = ram.page_size
        self._size = 0
        self._lock = threading.Lock()
        self._in_use = self._was_used = False
        self.truncated = False
        if offset < 0 or offset % _native.SINK_PIECE or self._end >= 1 << 63:
            raise UsageError(
                f"copy_offset {offset:#x}: must be a multiple of {_native.SINK_PIECE}, and the "
                "block must end below 2^63"
            )
        magic = _check(fd, self.text)
        own = _reopened(fd) if update else None
        self._holes = own is not None and magic in (TMPFS, *DISK)
        if own is None:
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self.fds: tuple[int, ...] = (own,)
        try:
            state = os.memfd_create("pagecheck-sink")
            self.fds = (*self.fds, state)
            os.ftruncate(state, mmap.PAGESIZE)
            self._memory = mmap.mmap(state, mmap.PAGESIZE)
        except BaseException:
            self._close_fds()
            raise

    def message(self, *, again: bool) -> dict[str, object]:
        """What a worker needs to know beside the descriptors.

        Args:
            again: another worker may have written what this one decides.
        """
        return {
            "start": self._offset,
            "update": self._update or again,
            "holes": self._holes,
        }

    def require_other_file(self, fd: int) -> None:
        """Raises UsageError where that is the same file."""
        if os.path.samestat(os.fstat(fd), os.fstat(self.fds[0])):
            raise UsageError(f"{self.text}: is the file that the pages are read from")

    def begin(self) -> None:
        """A scan begins: nothing is written yet and nothing failed.

        Raises:
            UsageError: another scan has not ended, or ended early and its workers may still write;
                or nothing would compare with what the last one left in the file.
        """
        with self._lock:
            if self._in_use:
                raise UsageError(
                    f"{self.text}: another scan writes there, or ended early and may yet; when it "
                    "has ended, attach the block again with copy_update=True"
                )
            if self._was_used and not self._update:
                raise UsageError(
                    f"{self.text}: has what an earlier scan wrote; attach the block again with "
                    "copy_update=True"
                )
            self._in_use = self._was_used = True
        self._memory[:] = bytes(len(self._memory))
        self._size = os.fstat(self.fds[0]).st_size
        self.truncated = False

    def stop(self) -> None:
        """Nothing more is written, but for what is being written at this moment."""
        at = SINK["stopped"].offset
        self._memory[at : at + WORD_BYTES] = b"\1" * WORD_BYTES

    def release(self) -> None:
        """Nobody writes any more; another scan may begin."""
        self._in_use = False

    def end(self) -> None:
        """The scan ended: looks whether the file is still what it was."""
        self.truncated = os.fstat(self.fds[0]).st_size < self._size

    def _word(self, name: str) -> int:
        return SINK[name].read(memoryview(self._memory))

    @property
    def written_bytes(self) -> int:
        """Bytes that were written; of a worker that was killed the last ones may be missing."""
        return self._word("written")

    @property
    def written(self) -> int:
        """The same in pages."""
        return self.written_bytes // self._page_size

    @property
    def write_error(self) -> int | None:
        """The errno of the first write, or of the first comparison, that failed."""
        return self._word("failure") & ((1 << _native.SINK_ERROR_BITS) - 1) or None

    @property
    def write_offset(self) -> int | None:
        """Where that was: byte offset in the file, of the 4096 bytes around it."""
        if self.write_error is None:
            return None
        return (self._word("failure") >> _native.SINK_ERROR_BITS) * _native.SINK_PIECE

    def why_incomplete(self) -> str | None:
        """The note on what could not be written; None: all was."""
        if self.write_error is not None:
            why = os.strerror(self.write_error)
            return f"{self.text}: {why} at offset {self.write_offset:#x}: pages are undecided"
        if self.truncated:
            return f"{self.text}: was truncated while it was written: every page is undecided"
        return None

    def close(self) -> None:
        """Closes what is open; a second time does nothing."""
        if self.fds:
            self._memory.close()
        self._close_fds()

    def _close_fds(self) -> None:
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


def _name(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"fd:{fd}"


def _reopened(fd: int) -> int | None:
    """The same file, with a position that is nobody else's: looking for holes changes it. None
    where to open it anew would break a lease that its owner has."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_UNLCK:
            return None
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # without /proc, or the rights to open it anew; or another has a lease on it
        return None


def require_regular(text: str, mode: int) -> None:
    """Raises UsageError where a file of this mode is none that pages can be copied to."""
    if not stat.S_ISREG(mode):
        raise UsageError(f"{text}: pages can only be copied to a regular file")


def require_writable(text: str, flags: int) -> None:
    """Raises UsageError where a file that is open with these flags cannot be written to."""
    access = flags & os.O_ACCMODE
    if flags & _O_PATH or access != os.O_RDWR:
        raise UsageError(f"{text}: is not open for reading and writing")
    if flags & os.O_APPEND:
        raise UsageError(f"{text}: is open for appending, where a page's offset counts for nothing")


def _check(fd: int, text: str) -> int:
    """The file system's magic number; UsageError where pages cannot be written to the descriptor at
    their offsets."""
    try:
        mode = os.fstat(fd).st_mode
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"copy_to {fd}: is not an open descriptor") from error
    require_regular(text, mode)
    require_writable(text, flags)
    magic = _native.file_system_magic(fd)
    if magic == HUGETLBFS:
        raise UsageError(f"{text}: hugetlbfs takes no writes, it can only be mapped")
    return magic
