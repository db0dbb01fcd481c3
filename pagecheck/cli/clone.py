"""`pagecheck clone`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import JSON_ONLY, QUIET, directory_and_command, verbose
from pagecheck.cli.streams import log_to_stderr, require_reader
from pagecheck.cli.working import with_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.snapshot.clone import CloneReport

_CODES: Final = """
\b
Exit codes:
  0    all clones ran, and ended well
  2    an invalid request, another machine than the snapshot's, or clones
       would share what they may not
  3    a QEMU cannot be started, or does not load the state
  5    the snapshot does not verify; nothing was started
  4    a shortage (memory, open files, processes), or a bug in pagecheck
Else that of the first clone that did not end well.
"""

_OPTIONS: Final = (
    click.Option(
        ["-n", "--count"], type=int, required=True, metavar="N", help="How many, 1 to 1000."
    ),
    click.Option(
        ["--disks"],
        type=click.Choice(["overlay"]),
        help="overlay: each clone writes to a new qcow2 file on top of each disk of -drive.",
    ),
    click.Option(
        ["--share"],
        multiple=True,
        metavar="NAME",
        help="All clones may have this, as the message named it.",
    ),
    click.Option(
        ["--qmp-folder"],
        metavar="FOLDER",
        help="Where their QMP sockets are: clone1.qmp and so on. Default: a new one.",
    ),
    click.Option(
        ["--overlay-folder"], metavar="FOLDER", help="Where overlays are. Default: a new one."
    ),
    click.Option(["--paused"], is_flag=True, help="The VMs stay stopped."),
    JSON_ONLY,
    QUIET,
    verbose("Log progress to stderr."),
)


@click.command(
    params=[
        *directory_and_command("-- COMMAND"),
        *_OPTIONS,
    ],
    epilog=_CODES,
    short_help="Start many VMs from one snapshot.",
)
def clone(
    directory: str,
    command: tuple[str, ...],
    *,
    count: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Start N VMs from the snapshot in DIR, and stay in front until all have ended.

    COMMAND is QEMU's command line as for a first start; {n} in it stands for the clone's number.
    All map the snapshot's RAM file privately: it is not changed, and pages that no clone has
    written are in memory once. Every byte of DIR is verified first. What clones may not share (a
    disk that is written to, a socket, a port) is refused by name.

    \b
    Examples:
      pagecheck clone golden -n 4 -- qemu-system-x86_64 -machine q35 -m 1G
      pagecheck clone golden -n 4 --disks overlay --qmp-folder /run/clones -- \\
          qemu-system-x86_64 -machine q35 -m 1G -drive file=golden.qcow2,if=virtio \\
          -serial file:/tmp/clone{n}.log
    """
    from pagecheck.snapshot.clone import Clones, to_json
    from pagecheck.snapshot.front import InFront, exit_code

    if not command:
        raise click.UsageError("give QEMU's command after --, as for a first start of the VM")
    log_to_stderr(verbose=verbose)
    if as_json:
        require_reader()
    made = with_progress(
        lambda watch: Clones(directory, count, command, progress=watch, **options),
        "verifying",
        quiet=quiet,
    )
    with made as clones:
        clones.start()
        with InFront() as front:
            found = clones.load()
            if as_json:
                click.echo(json.dumps(to_json(found, clones.verify_s)))
            elif not quiet:
                click.echo(_table(found))
            front.wait(clones.processes)
            codes = [exit_code(each.wait()) for each in clones.processes]
    return next((code for code in codes if code), 0)


def _table(found: Sequence[CloneReport]) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable_lines

    rows = [["clone", "pid", "runs after", "memory", "its own", "QMP"]]
    for each in found:
        memory = (size_text(each.pss_bytes), size_text(each.private_bytes))
        seconds = f"{each.running_s * 1e3:.0f} ms"
        rows.append([str(each.number), str(each.pid), seconds, *memory, each.qmp])
    total = size_text(sum(each.pss_bytes for each in found))
    return f"{printable_lines(columns(rows))}\n{total} of memory in all (Pss)"
