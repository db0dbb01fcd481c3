"""A scan for the command line: runs it, shows how far it is, prints what it found."""

from __future__ import annotations

from pagecheck import logs
from pagecheck.cli.signals import raise_pending
from pagecheck.cli.streams import log_to_stderr, require_reader, say
from pagecheck.cli.working import with_progress
from pagecheck.model import is_vm_source

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pagecheck.report.report import Report


class Shown:
    """What is printed.

    Attributes:
        ranges: runs of pages, not the table.
        as_json: the report as JSON, nothing else.
        quiet: nothing but errors.
        verbose: progress is logged.
    """

    def __init__(self, *, ranges: bool, as_json: bool, quiet: bool, verbose: bool) -> None:
        self.ranges = ranges
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose


def perform(run: Callable[..., Report], source: str, options: dict[str, Any], shown: Shown) -> int:
    """Scans, and prints what was found.

    Args:
        run: `pagecheck.scan`, or what scans as it does.
        options: its arguments by name; what it has a default for may be left out.

    Returns:
        The exit code.
    """
    if shown.verbose or is_vm_source(source):  # there, others log too
        log_to_stderr(verbose=shown.verbose)
    else:
        logs.set_up_later(lambda: log_to_stderr(verbose=False))
    if not shown.quiet or shown.as_json:
        require_reader()
    report = with_progress(
        lambda progress: run(source, progress=progress, **options), "scanning", quiet=shown.quiet
    )
    raise_pending()
    if not shown.quiet or shown.as_json:
        _print_report(report, ranges=shown.ranges, as_json=shown.as_json)
    return 1 if report.total.undecided else 0


def _print_report(report: Report, *, ranges: bool, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(report.to_json()))
        return
    from pagecheck.cli import present

    if not ranges:
        print(present.table(report))
        return
    for block in report.blocks:
        if block.regions:
            for address, size, kind in present.guest_runs(block):
                print(f"{address:#x} {size:#x} {kind}")
            continue
        for first, count, kind in present.runs(block):
            print(first, count, kind)
    for note in report.notes:
        say(f"note: {note}")
