"""Zero pages of a file at rest, made holes under a write lease; see `punch.py` for the reasons."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.child.signals import signals_held
from pagecheck.coordinator.settings import default_channels
from pagecheck.errors import InternalError, PagecheckError, SourceError
from pagecheck.model import Format
from pagecheck.native import _native
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.mounts import source_may_stall
from pagecheck.shm.ram import DISK, TMPFS, RamSource, open_source
from pagecheck.snapshot import lease
from pagecheck.snapshot.in_use import users_of

F_GET_SEALS: Final = 1034  # Source: linux/fcntl.h; Python has no name for it before 3.12
SEALED: Final = 0x8 | 0x10  # F_SEAL_WRITE, F_SEAL_FUTURE_WRITE
SLICE_BYTES: Final = 16 << 20  # what one call of the helper is given: a few milliseconds
NEAR_BYTES: Final = 1 << 20  # shorter data, and what lies this near to it, is one stretch
THREADS_MAX: Final = 4  # holes of one file are made one after the other
STEP_S: Final = 0.1

Progress = Callable[[int, int], None]


class Stretch(NamedTuple):
    """A part of a file that has data.

    Attributes:
        begin, end: bytes, multiples of the unit.
        dense: whether it has no hole, so far as the file system tells.
    """

    begin: int
    end: int
    dense: bool


def open_writable(text: str, format: Format, *, nobody_writes: bool) -> RamSource:
    """Opens a file for reading and writing.

    Args:
        nobody_writes: the user vouches for it, so that it may be one whose writers are not known.

    Raises:
        SourceError: it cannot be written, is no raw RAM, or nothing could prove that nobody
            writes to it.
    """
    if (kind := source_may_stall(text)) is not None:
        raise SourceError(
            f"{text}: is on {kind}, which need not answer and reports no writers; punch it on the "
            "host that has the file"
        )
    with open_source(text, format) as source:
        require_unsealed(text, source.fd)
        fd = reopened(text, source.fd)
        opened = RamSource(text, source.name, fd)
    if nobody_writes:
        return opened
    with contextlib.ExitStack() as undo:
        undo.callback(opened.close)
        if not opened.is_known_file_system:
            raise SourceError(
                f"{text}: its file system ({opened.magic:#x}) does not report who writes it; "
                "vouch with --nobody-writes that nobody does"
            )
        if text.startswith("fd:"):
            raise SourceError(
                f"{text}: whoever passed it on may write to it; give the file's path, or vouch "
                "with --nobody-writes that nobody does"
            )
        undo.pop_all()
    return opened


def reopened(text: str, fd: int) -> int:
    """Another descriptor of the same file, for reading and writing.

    Raises:
        SourceError: it may not be written.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{text}: cannot be opened for writing: {error.strerror}") from error


def require_unsealed(text: str, fd: int) -> None:
    """Raises SourceError where a seal forbids to write, which a hole is."""
    with contextlib.suppress(OSError):  # no file of tmpfs or hugetlbfs
        if fcntl.fcntl(fd, F_GET_SEALS) & SEALED:
            raise SourceError(f"{text}: is sealed against writing (F_SEAL_WRITE), and so are holes")


@contextlib.contextmanager
def leased(source: RamSource) -> Iterator[None]:
    """Holds a write lease, which a hole needs.

    Raises:
        SourceError: another process has it, or the kernel does not say.
    """
    text, fd = source.text, source.fd
    try:
        lease.take(fd)
    except BlockingIOError as error:
        who = users_of(fd) or "another process, or this one, has it open or mapped"
        raise SourceError(
            f"{text}: is in use: {who}; end that, give the VM's socket if it is a VM's RAM, or "
            "vouch with --nobody-writes that nobody writes to it"
        ) from error
    except PermissionError as error:
        raise SourceError(
            f"{text}: only its owner, or a process with CAP_LEASE, can keep writers away; run "
            "pagecheck as its owner or root"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{text}: its writers cannot be kept away: {error.strerror}; vouch with "
            "--nobody-writes that nobody writes to it"
        ) from error
    try:
        yield
    finally:
        lease.release(fd)


def unit_of(fd: int, page_size: int) -> int:
    """Bytes of the smallest hole: a page, or what its backing can take away."""
    return max(page_size, os.fstatvfs(fd).f_bsize)


def tested_kernel() -> str:
    """The CPU kernel that looks right before a hole is made.

    Raises:
        InternalError: it does not find what it should.
    """
    name = _native.kernel_auto()
    if not _native.kernel_self_check(name):
        raise InternalError(f"kernel {name}: fails its self-test; nothing is punched")
    return name


def stretches(data: Iterable[tuple[int, int]], size: int, unit: int) -> Iterator[Stretch]:
    """The parts of a file that are looked at, of whole units, in order.

    Args:
        data: (begin, end) of its data, ascending.
    """
    limit = size - size % unit
    done = 0
    for each in _joined(data, max(NEAR_BYTES, 2 * unit)):
        begin = max(each.begin - each.begin % unit, done)
        end = min(each.end + -each.end % unit, limit)
        if begin < end:
            yield Stretch(begin, end, each.dense and each.begin <= begin and end <= each.end)
            done = end


def _joined(data: Iterable[tuple[int, int]], near: int) -> Iterator[Stretch]:
    """Long data as it is, short data that lies near to other as one."""
    pending: Stretch | None = None
    for begin, end in data:
        long = end - begin >= near
        if pending is not None:
            if not long and not pending.dense and begin - pending.end < near:
                pending = Stretch(pending.begin, end, dense=False)
                continue
            yield pending
        pending = Stretch(begin, end, dense=long)
    if pending is not None:
        yield pending


class FilePuncher:
    """Looks at a file's data and makes holes of its zero pages, in some threads."""

    def __init__(self, source: RamSource, unit: int, *, has_lease: bool) -> None:
        """Nothing is done yet.

        Args:
            source: open for reading and writing.
            has_lease: there is a lease, which every hole needs.
        """
        self._source = source
        self._unit = unit
        self._has_lease = has_lease
        self._kernel = tested_kernel()
        self._one = threading.Lock()
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._stop = False
        self._done = 0
        self.zero_bytes = 0
        self.lost = False

    def run(self, max_rate: int | None, progress: Progress | None) -> None:
        """Does all of it; `zero_bytes` and `lost` (the lease was lost) say what was done.

        Args:
            max_rate: bytes per second that are looked at.

        Raises:
            SourceError: a read or a hole failed.
        """
        found = self._stretches()
        total = sum(each.end - each.begin for each in found)
        self._slices = _slices(found)
        self._started = clock.now_s()
        self._running = count = max(1, min(THREADS_MAX, default_channels(total)))
        threads = [
            threading.Thread(target=self._work, args=(max_rate,), name=f"punch-{number}")
            for number in range(count)
        ]
        try:
            for thread in threads:
                with signals_held():
                    thread.start()
            while not self._finished.wait(STEP_S):
                if progress is not None:
                    progress(self._done, total)
        finally:
            self._stop = True
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._failed(self._error)

    def _stretches(self) -> list[Stretch]:
        source = self._source
        size = source.size
        data: Iterable[tuple[int, int]] = [(0, size)]
        if source.holes_are_proof:
            data = by_seeking(source.fd, 0, size)
        try:
            found = list(stretches(data, size, self._unit))
        except OSError as error:
            raise SourceError(f"{source.text}: cannot be read: {error.strerror}") from error
        knows = source.holes_are_proof and (source.magic == TMPFS or source.magic in DISK)
        return [each._replace(dense=each.dense and knows) for each in found]

    def _work(self, max_rate: int | None) -> None:
        try:
            while (each := self._next()) is not None:
                reached, zero = _native.punch_zero(
                    self._source.fd,
                    each.begin,
                    each.end,
                    self._unit,
                    self._kernel,
                    self._has_lease,
                    not each.dense and self._source.holes_are_proof,
                    each.dense and self._has_lease,
                )
                with self._one:
                    self._done += each.end - each.begin
                    self.zero_bytes += zero
                if reached < each.end:
                    self.lost = self._stop = True
                self._await_rate(max_rate)
        except BaseException as error:
            with self._one:
                self._error = self._error or error
            self._stop = True
        finally:
            with self._one:
                self._running -= 1
                if self._running == 0:
                    self._finished.set()

    def _next(self) -> Stretch | None:
        with self._one:
            return None if self._stop else next(self._slices, None)

    def _await_rate(self, max_rate: int | None) -> None:
        if max_rate is None:
            return
        while (
            not self._stop and (left := self._started + self._done / max_rate - clock.now_s()) > 0
        ):
            clock.sleep_s(min(left, STEP_S))

    def _failed(self, error: BaseException) -> BaseException:
        if not isinstance(error, OSError):
            return error
        return not_punched(self._source.text, error, self.zero_bytes)


def not_punched(text: str, error: OSError, zero_bytes: int) -> PagecheckError:
    """What to raise where a read or a hole failed.

    Args:
        zero_bytes: what was punched before.
    """
    why = f"{error.strerror}"
    if error.errno == errno.EOPNOTSUPP:
        why = "its file system cannot (fallocate(2), FALLOC_FL_PUNCH_HOLE)"
    return SourceError(
        f"{text}: cannot be read or punched: {why}; the {zero_bytes} bytes that were punched "
        "before were zero, and stay holes"
    )


def _slices(found: Iterable[Stretch]) -> Iterator[Stretch]:
    for each in found:
        begin = each.begin
        while begin < each.end:
            # They end where huge pages do, so that no two threads work on one.
            end = min((begin // SLICE_BYTES + 1) * SLICE_BYTES, each.end)
            yield Stretch(begin, end, each.dense)
            begin = end
