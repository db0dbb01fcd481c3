"""`pagecheck save`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import ENGINE, MAX_RATE, PAGE_SIZE, QUIET, channels, verbose, via
from pagecheck.cli.streams import log_to_stderr, require_reader
from pagecheck.cli.via import require_service
from pagecheck.cli.working import with_progress

if TYPE_CHECKING:
    from pagecheck.snapshot.save_report import SaveReport

_CODES: Final = """
\b
Exit codes:
  0    the snapshot is there, complete and synced
  1    DIR's file system (FUSE, a network) did not answer
  2    an invalid request, a VM or file that cannot be saved whole and
       exactly, or a directory that exists or cannot be written
  3    the VMM does not answer correctly, too few workers start, or
       --compress without its package (pip install zstandard)
  4    a shortage (/dev/shm, memory, open files, processes), or a bug in
       pagecheck
  130  interrupted (SIGINT)       143  terminated (SIGTERM)
  129  hung up (SIGHUP)           141  output pipe closed (SIGPIPE)
Whatever the code is, but for 0 nothing is left behind, unless only the
answer could not be printed (a full disk, a closed pipe, a signal once
DIR is complete), and the VM runs.
"""

_WORKERS: Final = (*ENGINE, channels("Worker processes. Default: as pagecheck scan."))

_OPTIONS: Final = (
    click.Option(
        ["--from", "from_file"],
        type=str,  # click.Path would look at it, and might wait for its file system
        metavar="FILE",
        help="Save this file of raw guest RAM, whatever its name looks like; in place of SOURCE.",
    ),
    click.Option(
        ["--live"],
        is_flag=True,
        help="Copy the RAM while the VM runs, then stop it and copy only what changed. A file: "
        "save it though others may write to it.",
    ),
    click.Option(
        ["--disks"],
        type=click.Choice(["overlay", "none"]),
        help="For a VM that can write to disks. overlay: from the moment of the snapshot on it "
        "writes to new files on top of them. none: nothing is done; see to them yourself.",
    ),
    click.Option(
        ["--then"],
        type=click.Choice(["run", "quit"]),
        default="run",
        show_default=True,
        help="quit: the VM stays stopped until the snapshot is safe, and ends.",
    ),
    click.Option(
        ["--compress"],
        type=click.Choice(["zstd"]),
        help="Compress the RAM files once the VM runs again; needs the package zstandard.",
    ),
    click.Option(
        ["--max-pause"],
        type=float,
        metavar="SECONDS",
        help="Then the VM runs on, and nothing is saved. Default: 5; with --then quit 600.",
    ),
    MAX_RATE,
    PAGE_SIZE,
    click.Option(
        ["--format"],
        type=click.Choice(["auto", "raw"]),
        default="auto",
        show_default=True,
        help="raw: take any file for raw RAM; else what certainly is none is refused.",
    ),
    click.Option(
        ["--trust-path"],
        is_flag=True,
        help="Open the path that QEMU reports where the kernel cannot prove which file holds the "
        "RAM (qmp: only).",
    ),
    *_WORKERS,
    *via(
        "Let the service there ('pagecheck serve') stop the VM and copy its RAM. DIR is made here."
    ),
    click.Option(
        ["--json", "as_json"], is_flag=True, help="Print the report as JSON, nothing else."
    ),
    QUIET,
    verbose("Log progress to stderr."),
)


def _complete(_context: click.Context, _words: click.Parameter, incomplete: str) -> list[Any]:
    from pagecheck.cli.completion import complete_source

    return complete_source(incomplete)


@click.command(
    params=[
        click.Argument(["words"], nargs=-1, metavar="SOURCE DIR", shell_complete=_complete),
        *_OPTIONS,
    ],
    epilog=_CODES,
    short_help="Save a VM, or a file of raw guest RAM, without its zero pages.",
)
def save(
    words: tuple[str, ...],
    *,
    from_file: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Save a VM, or a file of raw guest RAM, in the new directory DIR, without its zero pages.

    SOURCE is a VM, by the socket of its VMM (qmp:SOCKET, fc:SOCKET, ch:SOCKET, crosvm:SOCKET), or
    raw guest RAM: a path, fd:N or shm:/name. Nothing needs to be prepared. The VM is stopped for
    as short as possible, and runs again afterwards, whatever happens. Of QEMU the devices' state
    is saved too, so that "pagecheck restore" brings the VM back.

    DIR appears complete and synced, or not at all; what has that name already is left alone.

    \b
    Examples:
      pagecheck save qmp:/run/vm1.qmp /backup/vm1
      pagecheck save --live --disks overlay qmp:/run/vm1.qmp /backup/vm1
      pagecheck save --then quit qmp:/run/vm1.qmp /backup/vm1
      pagecheck save --from guest.ram /backup/ram
      pagecheck save --via /run/pagecheck.sock qmp:/run/vm1.qmp /backup/vm1
    """
    save_it = _saver(options.pop("via"), options.pop("via_uid"), options)
    source, directory = _source_and_directory(words, from_file)
    log_to_stderr(verbose=verbose)
    if not quiet or as_json:
        require_reader()
    report = with_progress(
        lambda progress: save_it(source, directory, progress=progress, **options),
        "saving",
        quiet=quiet,
    )
    if as_json:
        print(json.dumps(report.to_json()))
    elif not quiet:
        print(_text(report))
    return 0


def _saver(
    via: str | None, via_uid: int | None, options: dict[str, Any]
) -> Callable[..., SaveReport]:
    """Who saves: this program, or a service."""
    if not require_service(via, via_uid, options, _WORKERS):
        from pagecheck.snapshot.save import save as embedded

        return embedded
    if options.pop("then") != "run":
        raise click.UsageError("--then quit: a service ends no VM; save without --via")
    options.pop("format")
    from pagecheck.service.client import Client

    def by_service(source: str, directory: str, **left: Any) -> SaveReport:
        assert via is not None
        with Client(via, service_uid=via_uid) as client:
            return client.save(source, directory, **left)

    return by_service


def _source_and_directory(words: tuple[str, ...], from_file: str | None) -> tuple[str, str]:
    if from_file is None and len(words) == 2:
        return words[0], words[1]
    if from_file and len(words) == 1:
        return f"{'' if from_file.startswith('/') else './'}{from_file}", words[0]
    raise click.UsageError("give SOURCE and DIR, or --from FILE and DIR")


def _text(report: SaveReport) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable, printable_lines

    rows = [["block", "size", "pages", "zero", "normal", "stored"]]
    for block in report.blocks:
        counts = (block.counts.pages, block.counts.zero, block.counts.normal)
        numbers = [f"{count:,}" for count in counts]
        name, size = printable(block.block.name), size_text(block.block.size)
        rows.append([name, size, *numbers, size_text(block.bytes_stored)])
    lines = [printable_lines(columns(rows)), *_pause(report)]
    lines += [
        f"disk {printable(disk)}: the VM writes to {printable(file)} from now on"
        for disk, file in report.overlays
    ]
    stored = f"{size_text(report.bytes_stored)} stored in {report.seconds:.2f} s"
    lines.append(f"{printable(report.directory)}: {stored}, complete and synced")
    lines += [f"note: {printable(note)}" for note in report.notes]
    return "\n".join(lines)


def _pause(report: SaveReport) -> list[str]:
    pause, without = report.pause, report.pause_without_live
    if pause is None:
        return []
    if report.ended:
        return ["the VM was ended"]
    if not pause.stopped_by_us:
        return ["the VM was stopped already, and is left so"]
    more = "" if without is None else f"; without a copy before, {without * 1e3:.1f} ms"
    return [f"the VM was stopped for {pause.seconds * 1e3:.1f} ms{more}"]
