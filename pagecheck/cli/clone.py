"""`pagecheck clone`."""

from __future__ import annotations

from typing import Any, Final

import click

from pagecheck.cli.options import JSON_ONLY, QUIET, directory_and_command, verbose

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
def clone(directory: str, command: tuple[str, ...], **options: Any) -> int:
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
    from pagecheck.cli.perform_clone import perform_clone

    return perform_clone(directory, command, **options)
