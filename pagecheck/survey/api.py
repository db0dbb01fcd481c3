"""`pagecheck.survey`: many memory files on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagecheck.survey.local import LocalRunner
from pagecheck.survey.run import run_survey
from pagecheck.survey.values import IN_FLIGHT, Options

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from pagecheck.coordinator.settings import Engine
    from pagecheck.model import Format, Holes
    from pagecheck.survey.run import Summary
    from pagecheck.survey.values import Row
    from pagecheck.survey.work import Progress


def survey(
    paths: Sequence[str | os.PathLike[str]],
    *,
    engine: Engine = "auto",
    wq: Sequence[str] = (),
    fallback: bool = False,
    kernel: str | None = None,
    channels: int | None = None,
    page_size: int = 4096,
    holes: Holes = "trust",
    format: Format = "auto",
    nice: int = 0,
    max_rate: int | None = None,
    stall: float = 30.0,
    in_flight: int = IN_FLIGHT,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_row: Callable[[Row], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Counts the zero pages of many memory files, several at a time.

    Args:
        paths: files, folders with all that is below them, directories that `save` made, patterns
            (`*`, `?`, `[`) and URLs.
        channels: files, or pieces of large ones, that are checked at a time, each by a worker; by
            default one for each usable CPU, at most 16.
        max_rate: bytes per second that may be read, by all workers together.
        in_flight: bytes of objects of stores that are in memory at most, on their way or being
            checked.
        out: a folder for survey.csv, survey.parquet (with pyarrow) and survey.jsonl, which has each
            row from when it is known, whatever ends the survey.
        resume: what the survey in `out` has answered is not checked again, unless it has changed
            since.
        on_row: called with each row as it comes.
        progress: called several times a second.

    The other arguments are those of `Coordinator` and `Coordinator.attach`.

    Returns:
        The rows, by path; a file that cannot be checked is a row with its error.

    Raises:
        UsageError: an argument is out of range, there is no path, or the survey in `out` is not
            finished and not resumed.
        OutputError: `out` cannot be written, or has files that are not of a survey.
        PagecheckError: the survey cannot go on: no worker is left, or there is a shortage.
    """
    options = Options(
        *(page_size, engine, tuple(wq), fallback, kernel, nice, stall, holes, format, max_rate),
        in_flight=in_flight,
    )
    runner = LocalRunner(options, channels)
    return run_survey(paths, runner, out=out, resume=resume, on_row=on_row, progress=progress)
