"""Pieces of memory files, checked by one coordinator that stays for all of them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.coordinator.coordinator import Coordinator
from pagecheck.errors import (
    PagecheckError,
    SnapshotError,
    SourceError,
    StorageStalled,
    UsageError,
)
from pagecheck.plan import make_block
from pagecheck.shm.ram import open_source
from pagecheck.shm.rest import EVIDENT, why_written
from pagecheck.shortage import is_limit
from pagecheck.survey import saved
from pagecheck.survey.strips import strip_of
from pagecheck.survey.urls import is_url
from pagecheck.survey.values import Failed, Found, Options, identity_of, one_line, was_cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.coordinator.block import Block
    from pagecheck.picture.strip import Strip
    from pagecheck.report.report import BlockReport
    from pagecheck.shm.ram import RamSource
    from pagecheck.survey.small import SmallFiles
    from pagecheck.survey.stores import Objects
    from pagecheck.survey.values import Piece, Target

SMALL_BYTES: Final = 2 << 20  # the largest usual page
SMALL_FIRST: Final = 32

_DEFAULTS: Final = Options()
_OF_THE_FILE: Final = (SourceError, SnapshotError, StorageStalled)


class Checker:
    """Checks one piece after the other; a context manager that ends its workers.

    Attributes:
        options: how pieces are checked.
        coordinator: whose workers check.
    """

    def __init__(
        self, options: Options = _DEFAULTS, channels: int | None = 1, *, queue: int = 0
    ) -> None:
        """Starts the workers.

        Args:
            channels: how many; None: as many as this machine has CPUs for.
            queue: which of the DSA work queues the first takes, round robin.

        Raises:
            UsageError, EngineError, ResourceError: as `Coordinator`.
        """
        self.options = options
        self._closed = threading.Event()
        self._free_s = 0.0
        self._small: SmallFiles | None = None
        self._small_seen = 0
        self._objects: Objects | None = None
        self.coordinator = Coordinator.with_settings(
            {"queue": queue},
            channels=channels,
            engine=options.engine,
            wq=options.wq,
            fallback=options.fallback,
            kernel=options.kernel,
            nice=options.nice,
            stall=options.stall,
        )

    def check(self, piece: Piece, moved: Callable[[], None] | None = None) -> Found:
        """Decides the pages of a piece; one thread at a time.

        Args:
            moved: called where a file's check goes on.

        Raises:
            SourceError: the file cannot be used, or is another one than was found.
            SnapshotError: a snapshot is damaged.
            PagecheckError: there is a shortage, or no worker is left.
        """
        if is_url(piece.target.path):
            return self._check_object(piece)
        if piece.target.kind == "snapshot":
            return saved.check(piece, pictures=self.options.pictures)
        self._wait()
        started = clock.now_s()
        found = self._check_file(piece, moved)
        if self.options.max_rate is not None:
            self._free_s = started + found.bytes_checked / self.options.max_rate
        return found

    def _wait(self) -> None:
        """A scan keeps to the rate by itself; this is for many that are shorter than a batch."""
        while (left := self._free_s - clock.now_s()) > 0 and not self._closed.wait(left):
            pass

    def _check_object(self, piece: Piece) -> Found:
        if self._objects is None:
            from pagecheck.survey.stores import Objects

            self._objects = Objects(self.coordinator, self.options, self._closed.is_set)
        return self._objects.check(piece)

    def _check_file(self, piece: Piece, moved: Callable[[], None] | None) -> Found:
        started = clock.now_s()
        source = self._open(piece)
        if self._is_small(piece) and (found := self._check_small(piece, source, started)):
            return found
        block = self._attach(piece, source)
        try:
            result = self.coordinator.scan_block(
                block,
                max_rate=self.options.max_rate,
                progress=None if moved is None else _where_it_goes_on(moved),
            )
            settled = _is_settled(source, piece.target, result.why_live)
        finally:
            self.coordinator.detach(block)
        if self._closed.is_set():  # what was not looked at is undecided, and means nothing
            raise _closed()
        return Found(
            piece,
            result.report.counts,
            result.bytes_checked,
            clock.now_s() - started,
            settled=settled,
            note=one_line(result.notes[0], piece.target.path) if result.notes else None,
            strip=self._strip(piece, result.report),
        )

    def _is_small(self, piece: Piece) -> bool:
        """Whether it is one of many small files; a few are not worth numpy's start."""
        whole = piece.length == piece.target.size <= SMALL_BYTES
        if not whole or self.options.pictures or self.coordinator.engine != "cpu":
            return False
        self._small_seen += 1
        return self._small_seen > SMALL_FIRST

    def _check_small(self, piece: Piece, source: RamSource, started: float) -> Found | None:
        """As `_check_file`; None: it cannot be read, and a scan says which pages."""
        target = piece.target
        try:
            if self._small is None:
                from pagecheck.survey.small import SmallFiles

                self._small = SmallFiles(self.coordinator, self.options.page_size, SMALL_BYTES)
            trust = self.options.holes == "trust"
            counts, why = self._small.check(source, target.size, trust_holes=trust)
            settled = _is_settled(source, target, why_written(source.fd))
        except OSError:
            return None
        except BaseException:
            source.close()
            raise
        note = next((one_line(each, target.path) for each in (*source.notes, *why)), None)
        source.close()
        read = (counts.pages - counts.hole) * self.options.page_size
        return Found(piece, counts, read, clock.now_s() - started, settled=settled, note=note)

    def _strip(self, piece: Piece, report: BlockReport) -> Strip | None:
        if not self.options.pictures:
            return None
        return strip_of(report, piece.target.size, piece.start)

    def _open(self, piece: Piece) -> RamSource:
        target, page_size = piece.target, self.options.page_size
        source = open_source(target.path, self.options.format)
        try:
            status = os.fstat(source.fd)
            if status.st_ino != int(target.identity.partition(":")[0]):
                raise SourceError(f"{target.path}: was replaced by another file meanwhile")
            if status.st_size < piece.start + piece.length:
                raise was_cut(target.path, status.st_size)
            make_block(source.name, target.size, page_size)  # all of it is whole pages
        except BaseException:
            source.close()
            raise
        return source

    def _attach(self, piece: Piece, source: RamSource) -> Block:
        # One pass: for the CPU, reading costs less than mapping; a device reads what is mapped.
        return self.coordinator.attach(
            source,
            page_size=self.options.page_size,
            offset=piece.start,
            length=piece.length,
            holes=self.options.holes,
            access="auto" if self.coordinator.engine == "dsa" else "read",
        )

    @property
    def is_lost(self) -> bool:
        """Whether its workers died too often: what they had is undecided, and so is all else."""
        return self.coordinator.is_lost

    def close(self) -> None:
        """Ends the workers within about a second; from any thread. A check that is in progress
        ends early, and raises."""
        self._closed.set()
        self.coordinator.close()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def attempt(
    checker: Checker, piece: Piece, moved: Callable[[], None] | None = None
) -> Found | Failed:
    """Checks a piece; where that is the fault of its file, says so.

    Args:
        moved: as of `Checker.check`.

    Raises:
        PagecheckError: it is not: there is a shortage, no worker is left, or we were stopped.
    """
    path = piece.target.path
    try:
        return checker.check(piece, moved)
    except _OF_THE_FILE as error:
        return Failed(piece, one_line(error, path))
    except OSError as error:
        if is_limit(error):
            raise
        return Failed(piece, one_line(SourceError(error.strerror or str(error)), path))


def _is_settled(source: RamSource, target: Target, why_live: str | None) -> bool:
    """Whether nobody wrote to the file meanwhile, and whoever writes to it changes its times: a
    store to shared memory does not."""
    if source.is_shared_memory:
        return False
    same = identity_of(os.fstat(source.fd)) == target.identity
    return same and why_live not in EVIDENT


def _where_it_goes_on(moved: Callable[[], None]) -> Callable[[int, int], None]:
    last = -1

    def progress(done: int, _total: int) -> None:
        nonlocal last
        if done != last:
            last = done
            moved()

    return progress


def _closed() -> PagecheckError:
    return UsageError("the survey was stopped")
