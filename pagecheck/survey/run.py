"""`pagecheck survey`: many memory files, each one row, whoever checks their pieces."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from pagecheck import clock
from pagecheck.errors import UsageError
from pagecheck.logs import Log
from pagecheck.plan import check_page_size, require_rate
from pagecheck.survey.find import find
from pagecheck.survey.values import Failed, Found, Row, row_of, row_of_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from pagecheck.survey.journal import Journal
    from pagecheck.survey.values import Options, Piece, Target

log = Log(__name__)


_SUMMED: Final = (
    *("bytes", "allocated", "pages", "zero", "hole", "normal", "undecided", "seconds"),
    "bytes_checked",
)


class Runner(Protocol):
    """Whoever checks pieces: the CPUs of this machine, or a cluster; a context manager, whose end
    ends all work within about a second, also in the middle of `run`.

    Attributes:
        options: how it checks them.
        piece_bytes: how much of a file it wants at a time.
    """

    options: Options
    piece_bytes: int

    @property
    def name(self) -> str:
        """For people, such as "2 channels"."""

    def run(self, pieces: Iterable[Piece], watch: Callable[[], None]) -> Iterator[Found | Failed]:
        """Checks all pieces, which it takes as it needs them, and yields one answer for each, in
        any order; calls `watch` several times a second, whose exceptions end it."""

    def __enter__(self) -> Any:
        """Makes it ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it."""


class Progress(NamedTuple):
    """How far a survey is.

    Attributes:
        files, files_total: that were answered, and that were found.
        bytes, bytes_total: of their RAM.
    """

    files: int
    files_total: int
    bytes: int
    bytes_total: int


class Summary(NamedTuple):
    """What a survey found.

    Attributes:
        rows: one for each memory file, by path.
        seconds: of the whole survey.
        runner: who checked, for people.
        bytes_checked: that were read.
        reused: rows that were taken over from an earlier survey.
    """

    rows: tuple[Row, ...]
    seconds: float
    runner: str
    bytes_checked: int
    reused: int = 0

    @property
    def failed(self) -> int:
        """Rows with an error."""
        return sum(row.error is not None for row in self.rows)

    @property
    def total(self) -> Row:
        """The sum of all rows."""
        return total_of(self.rows)


def total_of(rows: Iterable[Row]) -> Row:
    """The sum of rows, as a row; what is not known counts nothing."""
    total = row_of_error("total", "")._replace(error=None, allocated=0)
    for row in rows:
        sums = {name: getattr(total, name) + (getattr(row, name) or 0) for name in _SUMMED}
        total = total._replace(**sums)
    return total


def run_survey(
    paths: Sequence[str | os.PathLike[str]],
    runner: Runner,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_row: Callable[[Row], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """`pagecheck.survey`, whoever checks; it documents the other arguments.

    Args:
        runner: who checks, and how.
        progress: called several times a second; what it raises ends the survey.
    """
    started = clock.now_s()
    if isinstance(paths, str | bytes) or not paths:
        raise UsageError("paths: give a list of at least one file, folder or URL")
    check_page_size(runner.options.page_size)
    require_rate(runner.options.max_rate)
    if resume and out is None:
        raise UsageError("resume: say by out which survey is to be continued")
    with contextlib.ExitStack() as stack:
        journal = (
            None
            if out is None
            else stack.enter_context(_journal(out, runner.options, resume=resume))
        )
        work = _Work(journal, on_row, progress)
        targets = work.found([os.fsdecode(each) for each in paths])
        if targets:
            with runner:
                for result in runner.run(work.pieces(targets, runner.piece_bytes), work.watch):
                    work.add(result)
        rows = tuple(sorted(work.rows, key=lambda row: row.path))
        if journal is not None:
            journal.finish(rows)
    return Summary(rows, clock.now_s() - started, runner.name, work.bytes_checked, work.reused)


def _journal(out: str | os.PathLike[str], options: Options, *, resume: bool) -> Journal:
    from pagecheck.survey.journal import Journal
    from pagecheck.survey.tables import NO_PARQUET

    with_parquet = importlib.util.find_spec("pyarrow") is not None
    if not with_parquet:
        log.warning("%s", NO_PARQUET)
    return Journal(out, options, resume=resume, with_parquet=with_parquet)


class _Work:
    """What was found and answered so far.

    Attributes:
        rows: in the order in which they came.
        reused: how many of them an earlier survey had.
        bytes_checked: that were read for the others.
    """

    def __init__(
        self,
        journal: Journal | None,
        on_row: Callable[[Row], None] | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.rows: list[Row] = []
        self.reused = self.bytes_checked = 0
        self._journal = journal
        self._on_row = on_row
        self._progress = progress
        self._open: dict[str, _Answers] = {}
        self._files = self._bytes = self._bytes_done = 0

    def found(self, paths: Sequence[str]) -> list[Target]:
        """What is to be checked of what is found below the paths."""
        targets = []
        for each in find(paths, leave_out=[self._journal.key] if self._journal else ()):
            self._files += 1
            if isinstance(each, Row):
                self._emit(each)
            elif (known := self._journal.answered(each) if self._journal else None) is not None:
                self.reused += 1
                self._emit(known, is_new=False)
            else:
                self._bytes += each.size
                targets.append(each)
            self.watch()
        return targets

    def pieces(self, targets: Iterable[Target], piece_bytes: int) -> Iterator[Piece]:
        """The pieces of all targets."""
        for target in targets:
            pieces = pieces_of(target, piece_bytes)
            self._open[target.path] = _Answers(len(pieces))
            yield from pieces

    def add(self, result: Found | Failed) -> None:
        """Takes an answer; the last one of a target makes its row."""
        target = result.piece.target
        answers = self._open[target.path]
        self._bytes_done += result.piece.length
        answers.add(result)
        if answers.missing == 0:
            del self._open[target.path]
            self._emit(
                row_of(target, answers.found)
                if answers.error is None
                else row_of_error(target.path, answers.error, target)
            )

    def watch(self) -> None:
        """Says how far it is."""
        if self._progress is not None:
            done = Progress(len(self.rows), self._files, self._bytes_done, self._bytes)
            self._progress(done)

    def _emit(self, row: Row, *, is_new: bool = True) -> None:
        self.rows.append(row)
        if is_new:
            self.bytes_checked += row.bytes_checked
            if self._journal is not None:
                self._journal.add(row)
        if self._on_row is not None:
            self._on_row(row)


class _Answers:
    """What is known of one target.

    Attributes:
        missing: pieces without an answer.
        error: the first of a piece that failed.
    """

    def __init__(self, pieces: int) -> None:
        self.missing = pieces
        self.found: list[Found] = []
        self.error: str | None = None

    def add(self, result: Found | Failed) -> None:
        """Takes the answer of a piece."""
        self.missing -= 1
        if isinstance(result, Found):
            self.found.append(result)
        else:
            self.error = self.error or result.error


def pieces_of(target: Target, piece_bytes: int) -> list[Piece]:
    """What is checked in one go each; at least one."""
    from pagecheck.survey.split import pieces

    return pieces(target, piece_bytes)
