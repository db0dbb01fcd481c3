"""`pagecheck survey`."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.new_report import new_file
from pagecheck.cli.options import ENGINE, HOLES, MAX_RATE, PAGE_SIZE, QUIET, SIZE, channels, verbose
from pagecheck.cli.signals import Terminated, raise_pending
from pagecheck.cli.streams import log_to_stderr, require_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pagecheck.survey.run import Summary
    from pagecheck.survey.values import Options, Row
    from pagecheck.survey.work import Progress, Runner

_CODES: Final = """
\b
Exit codes:
  0    every page of every file was decided
  1    a file has an error, or pages that stayed undecided
  2    an invalid request, or DIR cannot be written
  3    the engine or kernel is not supported, too few workers start, or a
       package is missing (pip install 'pagecheck[survey]')
  4    a shortage (/dev/shm, memory, open files, processes), or a bug in
       pagecheck
  130  interrupted (SIGINT)       143  terminated (SIGTERM)
  129  hung up (SIGHUP)           141  output pipe closed (SIGPIPE)
What was answered before an interrupt is printed, and kept in DIR.
"""

_WORKERS: Final = (
    *ENGINE,
    channels("Files that are checked at a time, each by a worker. Default: one per usable CPU."),
    click.Option(
        ["--cluster"],
        metavar="ADDRESS",
        help="Check on the workers of this Dask scheduler, such as tcp://HOST:8786 or tls://...; "
        "they have to see the files under the same paths.",
    ),
    click.Option(
        ["--workers"],
        type=int,
        metavar="N",
        help="Check on a Dask cluster that is started on this machine, with so many workers.",
    ),
)

_OPTIONS: Final = (
    PAGE_SIZE,
    HOLES,
    click.Option(
        ["--format"],
        type=click.Choice(["auto", "raw"]),
        default="auto",
        show_default=True,
        help="raw: take any file for raw RAM; else what certainly is none is a row that says so.",
    ),
    MAX_RATE,
    click.Option(
        ["--in-flight"],
        type=SIZE,
        default="256M",
        show_default=True,
        metavar="SIZE",
        help="Bytes of objects of stores that each process has in memory at most.",
    ),
    *_WORKERS,
    click.Option(
        ["--out"],
        type=str,  # click.Path would look at it, and might wait for its file system
        metavar="DIR",
        help="Write survey.csv, survey.parquet (needs pyarrow) and survey.jsonl there.",
    ),
    click.Option(
        ["--resume"],
        is_flag=True,
        help="Continue the survey in DIR of --out: files that it has answered, and that did not "
        "change since, are not checked again.",
    ),
    click.Option(
        ["--since"],
        type=str,
        metavar="DIR",
        help="Say which files grew since the survey that wrote DIR by --out: below the table, and "
        "as a column of --html.",
    ),
    click.Option(
        ["--html"],
        type=str,
        metavar="FILE",
        help="Write all rows, with small pictures of where their pages lie, as one page for a "
        "browser: to be sorted, filtered and printed. FILE must be new.",
    ),
    click.Option(
        ["--json", "as_json"], is_flag=True, help="Print a line of JSON for each file as it comes."
    ),
    QUIET,
    verbose("Log progress to stderr."),
)


def _complete(_context: click.Context, _words: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


@click.command(
    params=[
        click.Argument(
            ["paths"], nargs=-1, required=True, metavar="PATH...", shell_complete=_complete
        ),
        *_OPTIONS,
    ],
    epilog=_CODES,
    short_help="Count the zero pages of many memory files.",
)
def survey(
    paths: tuple[str, ...],
    *,
    out: str | None,
    resume: bool,
    since: str | None,
    html: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> int:
    """Count the zero pages of many files of raw guest RAM, several at a time.

    PATH is a file, a folder with all that is below it, a directory that "pagecheck save" made, a
    pattern in quotes, or a URL of those in a store (s3://, gs://, http://, https://). Each memory
    file is a row; one that cannot be checked is a row with its reason. Links in folders are not
    followed, and nothing but regular files is opened.

    With --out, each row is kept as it comes, whatever ends the survey; --resume continues it, and
    checks only what is new or has changed since.

    \b
    Examples:
      pagecheck survey /snapshots
      pagecheck survey --json '/snapshots/*/mem' | jq 'select(.zero * 2 > .pages) | .path'
      pagecheck survey --out /var/tmp/survey /snapshots
      pagecheck survey --out /var/tmp/survey --resume /snapshots
      pagecheck survey --html survey.html /snapshots
      pagecheck survey --since /var/tmp/monday --out /var/tmp/tuesday /snapshots
      AWS_PROFILE=backup pagecheck survey s3://bucket/snapshots
    """
    from pagecheck.survey.run import run_survey

    log_to_stderr(verbose=verbose)
    if not quiet or as_json:
        require_reader()
    before = None if since is None else _read_rows(since)
    workers, options = _options(given, pictures=html is not None)
    rows: list[Row] = []

    def show(row: Row) -> None:
        rows.append(row)
        if as_json:
            print(json.dumps(row.to_json()), flush=True)

    runner = _runner(options, workers)
    with new_file(html) as write_page:
        try:
            with _bar(hidden=quiet or (as_json and sys.stdout.isatty())) as watch:
                summary = run_survey(
                    paths, runner, out=out, resume=resume, on_row=show, progress=watch
                )
        except Terminated:
            if rows and not as_json and not quiet:
                _print_some(rows)
            if rows and html is not None:
                from pagecheck.survey.report import page_of_some

                write_page(page_of_some(rows, runner.name, before))
            raise
        try:
            if not as_json and not quiet:
                _print(summary, since, before)
        finally:  # also where nobody reads the table
            if html is not None:
                from pagecheck.survey.report import page

                write_page(page(summary, before))
    return 1 if summary.failed or summary.total.undecided else 0


def _read_rows(folder: str) -> dict[str, Row]:
    from pagecheck.survey.journal import read_rows

    return read_rows(folder)


def _print(summary: Summary, since: str | None, before: dict[str, Row] | None) -> None:
    from pagecheck.cli import survey_table

    print(survey_table.table(summary.rows, summary.total))
    print(survey_table.sentences(summary))
    if since is not None and before is not None:
        print(survey_table.changes(since, before, summary.rows))


def _options(given: dict[str, Any], *, pictures: bool) -> tuple[dict[str, Any], Options]:
    """What is the runner's to know, and how pieces are checked."""
    from pagecheck.survey.values import Options

    workers = {name: given.pop(name) for name in ("channels", "cluster", "workers")}
    return workers, Options(**given, pictures=pictures)


def _runner(options: Options, workers: dict[str, Any]) -> Runner:
    if workers["cluster"] is not None or workers["workers"] is not None:
        from pagecheck.survey.cluster import ClusterRunner

        return ClusterRunner(options, **workers)
    from pagecheck.survey.local import LocalRunner

    return LocalRunner(options, workers["channels"])


@contextlib.contextmanager
def _bar(*, hidden: bool) -> Iterator[Callable[[Progress], None]]:
    """What is called with how far the survey is; a terminal shows it."""
    if hidden or not sys.stderr.isatty():
        yield lambda _progress: raise_pending()
        return
    from pagecheck.cli import survey_table
    from pagecheck.cli.present import ProgressBar

    with ProgressBar(doing="surveying") as shown:

        def watch(progress: Progress) -> None:
            raise_pending()
            shown(progress.bytes, progress.bytes_total, survey_table.far(progress))

        yield watch


def _print_some(rows: Sequence[Row]) -> None:
    """What was answered before an interrupt."""
    from pagecheck.cli import survey_table
    from pagecheck.survey.run import total_of

    known = sorted(rows, key=lambda row: row.path)
    print(survey_table.table(known, total_of(known)))
    print(f"interrupted: these {len(known):,} files only")
