"""`pagecheck selftest`: whether pagecheck is right on this host, and a report of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import click

from pagecheck.cli.new_report import new_report
from pagecheck.cli.options import complete_folder
from pagecheck.cli.signals import raise_pending
from pagecheck.cli.streams import log_to_stderr, require_reader, say

if TYPE_CHECKING:
    from pagecheck.selftest.report import SelftestReport
    from pagecheck.selftest.selftest import SoFar

CODES: Final = """
\b
Exit codes:
  0  nothing was wrong
  1  something was wrong; the last lines say what, and the command that
     repeats it
  2  an invalid request, or a folder that cannot be used
  4  a shortage, so that no world could be tried, or a bug in pagecheck
  130, 143, 129  ended by SIGINT, SIGTERM, SIGHUP
"""
TELL_S: Final = 10.0  # between two lines that say how far it is


@click.command(epilog=CODES, short_help="Test pagecheck on this host for some minutes.")
@click.option(
    "--minutes",
    type=float,
    default=1.0,
    show_default=True,
    metavar="N",
    help="How long; what has begun by then ends.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    metavar="S",
    help="Seed of the first world; the next ones have the numbers behind it.",
)
@click.option(
    "--world", metavar="LINE", help="Run only this world, once: LINE is what a failure printed."
)
@click.option(
    "--in",
    "folders",
    multiple=True,
    metavar="DIR",
    shell_complete=complete_folder,
    help="Make RAM files in DIR too, such as a folder on the disk of your snapshots. Repeatable.",
)
@click.option("--out", metavar="FILE", help="Write the JSON report to FILE, to attach to a bug.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON report, nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Log what workers and channels do to stderr.")
def selftest(
    *,
    minutes: float,
    seed: int,
    world: str | None,
    folders: tuple[str, ...],
    out: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Test pagecheck with what this host has: CPU, file systems, huge pages, DSA queues.

    Every CPU kernel is compared with the portable one, every work queue is probed, and then random
    worlds are run until the time is over: RAM of odd sizes and layouts in memory, files and a
    process of its own, scanned and checked by several threads while workers are killed, saved,
    verified and restored. Every answer is compared with what numpy finds, and nothing may be left.

    Only files and processes that it makes itself are touched. It uses at most some hundred MiB of
    memory, /dev/shm and the folder of temporary files, and removes them.

    \b
    Examples:
      pagecheck selftest
      pagecheck selftest --minutes 60 --in /var/lib/snapshots --out report.json
      pagecheck selftest --world 'seed=7 place=shm pages=12 kills=1 threads=1'
    """
    from pagecheck.selftest.selftest import selftest

    if not quiet or as_json:
        require_reader()
    if verbose:
        log_to_stderr(verbose=True)
    else:
        logging.disable(logging.CRITICAL)  # workers that we killed ourselves
    telling = _Telling(quiet=quiet)
    with new_report(out) as write:
        report = selftest(minutes, seed=seed, world=world, folders=folders, progress=telling)
        document = report.to_json()
        write(document)
    if as_json:
        import json

        print(json.dumps(document))
    elif not quiet:
        _print(report)
    return 0 if report.ok else 1


class _Telling:
    """A line on stderr every now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._told = 0.0

    def __call__(self, so_far: SoFar) -> None:
        raise_pending()
        if self._quiet or so_far.seconds - self._told < TELL_S:
            return
        self._told = so_far.seconds
        wrong = "nothing wrong" if not so_far.failures else f"{so_far.failures} WRONG"
        say(f"{so_far.seconds:.0f} s of {so_far.of_seconds:.0f} s: {so_far.worlds} worlds, {wrong}")


def _print(report: SelftestReport) -> None:
    from pagecheck.cli.present import columns
    from pagecheck.printable import printable, printable_lines

    rows = [["what", "tried", "", "wrong"]]
    for part in report.parts:
        rows.append([part.name, str(part.tried), part.unit, str(part.wrong)])
    print(printable_lines(columns(rows, left=(0, 2))))
    for part in report.parts:
        if part.note:
            print(printable(f"note: {part.name}: {part.note}"))
    for failure in report.failures:
        print(printable(f"WRONG: {failure.part}: {failure.message}"))
        print(printable(f"  again: {failure.again}"))
        if not failure.repeated and "--world" in failure.again:
            print("  it was not wrong again in 3 tries of the same world")
    verdict = "nothing wrong" if report.ok else f"{len(report.failures)} WRONG"
    print(
        f"{verdict}: {report.worlds} worlds, {report.answers} answers compared, {report.kills} "
        f"workers killed, {report.saves} saved and restored, in {report.seconds:.0f} s, "
        f"seed {report.seed}"
    )
