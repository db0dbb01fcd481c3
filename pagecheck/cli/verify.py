"""`pagecheck verify`: whether a snapshot is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from pagecheck.cli.options import SIZE, complete_folder
from pagecheck.cli.streams import require_reader
from pagecheck.cli.via import HERE, require_there, with_via
from pagecheck.cli.working import with_progress

if TYPE_CHECKING:
    from pagecheck.snapshot.verify import VerifyReport

CODES: Final = """
\b
Exit codes:
  0  every byte is as it was saved
  2  an invalid request, or DIR is not a directory, or may not be read
  3  there is no service at the socket of --via
  4  a shortage (memory, threads, open files), or a bug in pagecheck
  5  it is damaged, not whole, of an unknown version, or not a snapshot;
     the line names the file, and the block and its pages
  130, 143, 129  ended by SIGINT, SIGTERM, SIGHUP
"""


@click.command(epilog=CODES, short_help="Check every byte of a snapshot.")
@click.argument("directory", shell_complete=complete_folder, metavar="DIR")
@click.option("--max-rate", type=SIZE, metavar="BYTES/S", help="Read no faster than this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@with_via(HERE)
def verify(
    directory: str,
    *,
    max_rate: int | None,
    as_json: bool,
    quiet: bool,
    via: str | None,
    via_uid: int | None,
) -> int:
    """Check every byte of the snapshot in DIR against its manifest.

    A byte changed, a file cut, grown, missing, or of another snapshot is found and named. Nothing
    is written. A restore does the same before it starts a VM.

    \b
    Examples:
      pagecheck verify /snapshots/vm1
      pagecheck verify --quiet /snapshots/vm1 && echo whole
    """
    from pagecheck.snapshot.verify import verify

    if not quiet or as_json:
        require_reader()
    require_there(via, via_uid)
    report = with_progress(
        lambda progress: verify(directory, max_rate=max_rate, progress=progress),
        "verifying",
        quiet=quiet,
    )
    if as_json:
        import json

        print(json.dumps(report.to_json()))
    elif not quiet:
        print(_sentence(directory, report))
    return 0


def _sentence(directory: str, report: VerifyReport) -> str:
    from pagecheck.cli.present import size_text
    from pagecheck.printable import printable

    rate = report.bytes_checked / report.seconds / 1e9 if report.seconds > 0 else 0.0
    return printable(
        f"{directory}: whole: {report.files} files, {size_text(report.bytes_checked)} in "
        f"{report.seconds:.2f} s ({rate:.1f} GB/s)"
    )
