"""`pagecheck restore`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import QUIET, SIZE, channels, directory_and_command, verbose
from pagecheck.cli.streams import log_to_stderr, require_reader, say
from pagecheck.cli.working import with_progress

if TYPE_CHECKING:
    from pagecheck.snapshot.restore import Restored, RestoreReport

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
    click.Option(["--max-rate"], type=SIZE, metavar="BYTES/S", help="Read no faster than this."),
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
def restore(
    directory: str,
    command: tuple[str, ...],
    *,
    ram: tuple[str, ...],
    execute: bool,
    paused: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Bring the VM back that "pagecheck save" saved in DIR.

    Every byte of DIR is verified first. Then its RAM is laid out in a new file, zero pages as
    holes. COMMAND is QEMU's command line as for a first start, with the same machine; its RAM is
    replaced by that file, its state is the snapshot's, and nothing else is changed. With --exec it
    is run, else the command to run is printed.

    \b
    Examples:
      pagecheck restore vm1.saved --ram shm:/vm1
      pagecheck restore vm1.saved --ram shm:/vm1 --exec -- \\
          qemu-system-x86_64 -machine q35 -m 4G -drive file=vm1.qcow2
      pagecheck restore vm1.saved --ram node0=/dev/shm/a --ram node1=/dev/shm/b
      pagecheck restore vm1.saved --ram shm:/vm1 --onto
    """
    from pagecheck.snapshot.restore import Restored

    if execute and not command:
        raise click.UsageError("--exec runs the QEMU command after --; give it")
    if paused and not execute:
        raise click.UsageError("--paused goes with --exec")
    log_to_stderr(verbose=verbose)
    if not (quiet or execute) or as_json:
        require_reader()

    def begin(watch: Any) -> Restored:
        return Restored(
            directory, _by_block(ram), command=command, verifying=watch, writing=watch, **options
        )

    with with_progress(begin, "restoring", quiet=quiet) as restored:
        if execute:
            return _in_front(restored, paused=paused, as_json=as_json, quiet=quiet)
        restored.keep()
        if as_json:
            click.echo(json.dumps(restored.report.to_json()))
        elif not quiet:
            click.echo("\n".join([*_told(restored.report), "", *_way(restored)]))
    return 0


def _by_block(given: tuple[str, ...]) -> str | dict[str, str]:
    """The path, or the path of each block by its name."""
    if len(given) == 1 and ("=" not in given[0] or "/" in given[0].partition("=")[0]):
        return given[0]
    found: dict[str, str] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or not path or name in found:
            raise click.UsageError(f"--ram {each}: name each RAM block once, as BLOCK=PATH")
        found[name] = path
    return found


def _in_front(restored: Restored, *, paused: bool, as_json: bool, quiet: bool) -> int:
    """Runs QEMU until it ends, and returns its exit status."""
    from pagecheck.snapshot.front import InFront, exit_code

    with restored.start(paused=paused) as qemu, InFront() as front:
        restored.load(qemu, paused=paused)
        try:
            if as_json:
                click.echo(json.dumps(restored.report.to_json()))
            elif not quiet:
                for line in _told(restored.report):
                    say(line)
        finally:  # also where the report cannot be written, the VM runs
            front.wait([qemu.process])
        return exit_code(qemu.process.wait())


def _told(report: RestoreReport) -> list[str]:
    from pagecheck.cli.present import size_text
    from pagecheck.printable import printable

    lines = []
    for each in report.blocks:
        done = f"{size_text(each.allocated)} of {size_text(each.size)} allocated"
        if not each.is_new:
            done += f", {each.written} pages written, {each.cleared} cleared"
        lines.append(f"{printable(each.name)}: {printable(each.path)}, {done}")
    lines.append(f"verified in {report.verify_s:.2f} s, laid out in {report.layout_s:.2f} s")
    if report.load_s is not None:
        lines.append(f"QEMU {report.pid} took the state in {report.load_s * 1e3:.1f} ms")
    return lines


def _way(restored: Restored) -> list[str]:
    """How the VM is continued by hand."""
    import shlex

    from pagecheck.printable import printable

    if restored.report.state is None:
        return ["The snapshot holds memory alone; start your VMM with this RAM."]
    words = restored.command_to_print()
    return [
        "The VM goes on with this command (add -S, and it waits for cont):",
        f"  {printable(shlex.join(words))}",
    ]
