"""`pagecheck restore`."""

from __future__ import annotations

from typing import Any, Final

import click

from pagecheck.cli.options import MAX_RATE, QUIET, channels, directory_and_command, verbose

_CODES: Final = """
\b
Exit codes:
  0    the RAM is there; with --exec: QEMU ended well
  2    an invalid request, a DIR that is not there or may not be read, a
       file that exists or cannot be written, or a command that makes
       another machine than the snapshot's
  3    QEMU cannot be started, or does not load the state
  5    the snapshot does not verify; nothing was written or started
  4    a shortage (/dev/shm, memory, open files, processes), or a bug in
       pagecheck
With --exec, once the VM runs: QEMU's exit status, or 128 and the number
of the signal that ended it.
"""

_OPTIONS: Final = (
    click.Option(
        ["--ram"],
        multiple=True,
        required=True,
        metavar="PATH|shm:/name|BLOCK=PATH",
        help="The new file for the VM's RAM; one for each of several RAM blocks.",
    ),
    click.Option(
        ["--onto"],
        is_flag=True,
        help="The RAM file may exist: it is written over where it differs. It must have exactly "
        "the size of the RAM block, and be in use by nobody.",
    ),
    click.Option(
        ["--exec", "execute"],
        is_flag=True,
        help="Start the QEMU after --, load the state, let the VM run, and stay in front of it.",
    ),
    click.Option(["--paused"], is_flag=True, help="With --exec: the VM stays stopped."),
    MAX_RATE,
    channels("Worker processes. Default: as pagecheck scan."),
    click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="Print the report as JSON, before the VM's output.",
    ),
    QUIET,
    verbose("Log progress to stderr."),
)


@click.command(
    params=[
        *directory_and_command("[-- COMMAND]"),
        *_OPTIONS,
    ],
    epilog=_CODES,
    short_help="Bring a saved VM back.",
)
def restore(directory: str, command: tuple[str, ...], **options: Any) -> int:
    """Bring the VM back that "pagecheck save" saved in DIR.

    Every byte of DIR is verified. Its RAM is laid out in a new file, zero pages as holes, which has
    no name until all is verified. COMMAND is QEMU's command line as for a first start, with the
    same machine; its RAM is replaced by that file, its state is the snapshot's, and nothing else is
    changed. With --exec it is run, else the command to run is printed.

    \b
    Examples:
      pagecheck restore vm1.saved --ram shm:/vm1
      pagecheck restore vm1.saved --ram shm:/vm1 --exec -- \\
          qemu-system-x86_64 -machine q35 -m 4G -drive file=vm1.qcow2
      pagecheck restore vm1.saved --ram node0=/dev/shm/a --ram node1=/dev/shm/b
      pagecheck restore vm1.saved --ram shm:/vm1 --onto
    """
    from pagecheck.cli.perform_restore import perform_restore

    return perform_restore(directory, command, **options)
