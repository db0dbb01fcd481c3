"""`pagecheck survey`: many memory files, each one row, whoever checks their pieces."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import UsageError
from pagecheck.logs import Log
from pagecheck.plan import check_page_size, require_rate
from pagecheck.survey.values import Row, row_of_error
from pagecheck.survey.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pagecheck.survey.journal import Journal
    from pagecheck.survey.values import Options
    from pagecheck.survey.work import Progress, Runner

log = Log(__name__)


_SUMMED: Final = (
    *("bytes", "allocated", "pages", "zero", "hole", "normal", "undecided", "seconds"),
    "bytes_checked",
)


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
    """The sum of rows, as a row; what is not known counts nothing, unless of none it is known."""
    added = list(rows)
    sums: dict[str, Any] = {name: sum(getattr(row, name) or 0 for row in added) for name in _SUMMED}
    if added and all(row.allocated is None for row in added):
        sums["allocated"] = None
    return row_of_error("total", "")._replace(error=None, **sums)


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
    if isinstance(paths, str | bytes | os.PathLike) or not paths:
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
        work = Work(on_row, progress, journal)
        far: dict[str, str] = {}
        on_far = far.__setitem__ if runner.here else None
        work.check(work.found([os.fsdecode(each) for each in paths], on_far), runner)
        if far:
            from pagecheck.survey.apart import survey_apart

            survey_apart(far, runner, work, journal.rows if journal else {})
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
