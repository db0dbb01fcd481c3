"""What a survey has found and has been answered, from the search to the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pagecheck.survey.find import find
from pagecheck.survey.split import pieces as pieces_of
from pagecheck.survey.values import Found, Row, row_of, row_of_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from pagecheck.survey.journal import Journal
    from pagecheck.survey.values import Failed, Options, Piece, Target


class Runner(Protocol):
    """Whoever checks pieces: the CPUs of this machine, or a cluster; a context manager, whose end
    ends all work within about a second, also in the middle of `run`.

    Attributes:
        options: how it checks them.
        piece_bytes: how much of a file it wants at a time.
        here: this process opens the files, which must not be on a file system that may stall.
    """

    options: Options
    piece_bytes: int
    here: bool

    @property
    def channels(self) -> int:
        """How many pieces it checks at a time."""

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


class Work:
    """What was found and answered so far.

    Attributes:
        rows: in the order in which they came.
        reused: how many of them an earlier survey had.
        bytes_checked: that were read for the others.
    """

    def __init__(
        self,
        on_row: Callable[[Row], None] | None,
        progress: Callable[[Progress], None] | None,
        journal: Journal | None = None,
    ) -> None:
        """Nothing is known yet.

        Args:
            on_row: called with each row.
            progress: called by `watch`.
            journal: keeps rows, and has those of an earlier survey.
        """
        self.rows: list[Row] = []
        self.reused = self.bytes_checked = 0
        self._journal = journal
        self._on_row = on_row
        self._progress = progress
        self._open: dict[str, _Answers] = {}
        self._files = self._bytes = self._bytes_done = 0
        self._far = Progress(0, 0, 0, 0)

    def found(
        self, paths: Sequence[str], on_far: Callable[[str, str], None] | None
    ) -> list[Target]:
        """What is to be checked of what is found below the paths; `find` says what `on_far` is."""
        targets = []
        leave_out = [self._journal.key] if self._journal else ()
        for each in find(paths, leave_out=leave_out, on_far=on_far):
            self._files += 1
            if isinstance(each, Row):
                self.emit(each)
            elif (known := self.answered(each)) is not None:
                self.emit(known, is_new=False)
            else:
                self._bytes += each.size
                targets.append(each)
            self.watch()
        return targets

    def answered(self, target: Target) -> Row | None:
        """The row that an earlier survey has for a target, if it still holds."""
        return None if self._journal is None else self._journal.answered(target)

    def check(self, targets: Sequence[Target], runner: Runner) -> None:
        """Has all targets checked."""
        if not targets:
            return
        with runner:
            for result in runner.run(self._pieces(targets, runner.piece_bytes), self.watch):
                self._add(result)

    def _pieces(self, targets: Iterable[Target], piece_bytes: int) -> Iterator[Piece]:
        for target in targets:
            pieces = pieces_of(target, piece_bytes)
            self._open[target.path] = _Answers(len(pieces))
            yield from pieces

    def _add(self, result: Found | Failed) -> None:
        """Takes an answer; the last one of a target makes its row."""
        target = result.piece.target
        answers = self._open[target.path]
        self._bytes_done += result.piece.length
        answers.add(result)
        if answers.missing == 0:
            del self._open[target.path]
            self.emit(
                row_of(target, answers.found)
                if answers.error is None
                else row_of_error(target.path, answers.error, target)
            )

    def watch(self) -> None:
        """Says how far it is."""
        if self._progress is not None:
            ours = (len(self.rows), self._files, self._bytes_done, self._bytes)
            self._progress(Progress(*map(sum, zip(ours, self._far, strict=True))))

    def others(self, far: Progress) -> None:
        """Takes how far those are that check in our place; of their rows all have come."""
        self._far = far._replace(files=0)
        self.watch()

    def emit(self, row: Row, *, is_new: bool = True) -> None:
        """Takes a row.

        Args:
            is_new: no earlier survey had it.
        """
        self.rows.append(row)
        if is_new:
            self.bytes_checked += row.bytes_checked
            if self._journal is not None:
                self._journal.add(row)
        else:
            self.reused += 1
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
