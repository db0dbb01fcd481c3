"""Whether a file was at rest (not written) during a scan, as far as the kernel can tell.

Facts: a read lease is granted only while no process has the file open for writing or maps it shared
and writable. Stores through a mapping change a disk file's times when a page becomes dirty, and a
tmpfs file's never. File systems that are stacked, or served by a program or over a network, grant
leases regardless of writers on the other side.
Danger: a writer that comes and goes between two inspections; a change within one tick of the clock;
times that were set back; a file whose writers we may not query.
Decision: at rest is a file of a known file system whose size and times stay, whose modification
time lies before the tick of the first inspection, which has no writer at either inspection and,
where its times prove nothing, whose inotify watch saw no writer. All else is live, with the reason.

Source: generic_add_lease() in fs/locks.c; inotify(7); Documentation/filesystems/multigrain-ts.rst.
"""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import contextlib
import fcntl
import os
import threading
import time

from pagecheck import clock
from pagecheck.native import _native
from pagecheck.shm.ram import RamSource

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple

_COARSE_CLOCK: Final = 5  # CLOCK_REALTIME_COARSE: what file times are taken from
_TICK_NS: Final = 20_000_000  # longer than a tick
_SECOND_NS: Final = 1_000_000_000

_NAMES: Final = {
    0x65735546: "FUSE",
    0x794C7630: "overlayfs",
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x01021997: "9p",
    0xF15F: "ecryptfs",
    0x73717368: "squashfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
}
_WRITTEN: Final = "somebody has it open for writing"
_NAMELESS: Final = "it is shared memory without a name, whose writers the kernel does not report"
PROCESS_RUNS: Final = "it is the private memory of a running process"
EVIDENT: Final = (_WRITTEN, _NAMELESS, PROCESS_RUNS)  # as the RAM of any running VM


class _State(NamedTuple):
    size: int
    mtime_ns: int
    ctime_ns: int


class Rest:
    """Watches one file from the beginning to the end of a scan.

    Attributes:
        size: bytes at the beginning.
        size_after: bytes at the end; the same before `end`.
    """

    def __init__(self, source: RamSource) -> None:
        """The first inspection; `end` or `close` must follow."""
        self._source = source
        self._watch = -1
        self._why = self._check_first()
        self._tick_ns = _coarse_ns()  # before the inspection: later changes are not older
        self._before = self._inspect()
        self.size = self.size_after = self._before.size

    def end(self) -> str | None:
        """The last inspection.

        Returns:
            Why the answer is live; None where the file was at rest.
        """
        try:
            after = self._inspect()
            self.size_after = after.size
            return self._why or self._why_not(after)
        finally:
            self.close()

    def close(self) -> None:
        """Closes the watch. May be called twice."""
        watch, self._watch = self._watch, -1
        if watch < 0:
            return
        try:  # the kernel waits up to 20 ms for concurrent notifications
            threading.Thread(target=os.close, args=(watch,), name="unwatch", daemon=True).start()
        except RuntimeError:
            os.close(watch)

    def _inspect(self) -> _State:
        st = os.fstat(self._source.fd)
        return _State(st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def _check_first(self) -> str | None:
        source = self._source
        if not source.is_known_file_system:
            name = _NAMES.get(source.magic, f"{source.magic:#x}")
            return f"its file system ({name}) does not report who writes it"
        if not source.own_description:
            return "its descriptor is shared with others, so that the kernel cannot be queried"
        if source.is_shared_memory and os.fstat(source.fd).st_nlink == 0:
            return _NAMELESS  # the first descriptor of a memfd does not count as a writer
        why = why_written(source.fd)
        if why is not None:
            return why
        if source.is_shared_memory:
            return self._begin_watch()
        _await_tick(source.fd)
        return None

    def _begin_watch(self) -> str | None:
        try:
            self._watch = _native.watch_open(self._source.fd)
        except OSError as error:
            return f"it cannot be watched for writers: {error.strerror}"
        return why_written(self._source.fd)

    def _why_not(self, after: _State) -> str | None:
        if after != self._before:
            return "it changed during the scan"
        why = why_written(self._source.fd)
        if why is not None:
            return why
        if self._watch >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._watch, 4096)
                return "somebody had it open for writing during the scan"
            return None
        return self._why_uncertain(after.mtime_ns)

    def _why_uncertain(self, mtime_ns: int) -> str | None:
        """A change would have given the file a time between our two inspections: that proves
        nothing where it had such a time before. Some file systems keep whole seconds only."""
        whole = mtime_ns % _SECOND_NS == 0
        earliest_ns = self._tick_ns - self._tick_ns % _SECOND_NS if whole else self._tick_ns
        if earliest_ns <= mtime_ns <= time.time_ns() + _TICK_NS:
            return "it was written at the moment the scan began"
        return None


def _coarse_ns() -> int:
    return time.clock_gettime_ns(_COARSE_CLOCK)


def _await_tick(fd: int) -> None:
    """After a change within the current tick, the next one may get the same time."""
    mtime_ns = os.fstat(fd).st_mtime_ns
    while 0 <= mtime_ns - _coarse_ns() < _TICK_NS:
        clock.sleep_s(0.002)


def why_written(fd: int) -> str | None:
    """None if, by the kernel, no process has the file open for writing.

    A read lease is taken and released at once; should a writer come in between, the kernel notifies
    us by a signal that is ignored by default.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        finally:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return _WRITTEN
    except PermissionError:
        return "only its owner, or a process with CAP_LEASE, may query its writers"
    except OSError as error:
        return f"the kernel does not report who writes it: {error.strerror}"
    return None
