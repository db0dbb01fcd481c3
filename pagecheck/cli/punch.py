"""`pagecheck punch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import (
    ENGINE,
    JSON_ONLY,
    QUIET,
    SIZE,
    channels,
    max_pause,
    verbose,
    via,
)
from pagecheck.cli.via import is_default, require_service

if TYPE_CHECKING:
    from pagecheck.snapshot.punch_report import PunchReport

_CODES: Final = """
\b
Exit codes:
  0    all of it was looked at
  1    part of it was left: another process wants the file, or the longest
       pause was over
  2    an invalid request, or a file or VM that cannot be punched
  3    the VMM does not answer correctly, or too few workers start
  4    a shortage (memory, open files, processes), or a bug in pagecheck
  130  interrupted (SIGINT)       143  terminated (SIGTERM)
  129  hung up (SIGHUP)           141  output pipe closed (SIGPIPE)
What was punched stays so, whatever the code is: it was zero.
"""

_WORKERS: Final = (
    *ENGINE,
    channels("Worker processes that look for zero pages while a VM runs, or in a dry run."),
)

_OPTIONS: Final = (
    click.Option(
        ["--page-size"],
        type=SIZE,
        default="4K",
        show_default=True,
        help="Bytes of the smallest hole; more where the backing has larger blocks or pages.",
    ),
    click.Option(["--dry-run"], is_flag=True, help="Change nothing; tell what would be freed."),
    click.Option(
        ["--nobody-writes"],
        is_flag=True,
        help="You vouch that nobody writes to the file meanwhile, although it is open or mapped "
        "elsewhere, or that cannot be known. Not for a VM.",
    ),
    max_pause("What is not done by then is left as it is, and the VM runs on."),
    click.Option(
        ["--max-rate"],
        type=SIZE,
        metavar="BYTES/S",
        help="Look at no more than this in a second; not while a VM is stopped.",
    ),
    click.Option(
        ["--format"],
        type=click.Choice(["auto", "raw"]),
        default="auto",
        show_default=True,
        help="auto: refuse files that are certainly not raw RAM. raw: take any file.",
    ),
    click.Option(
        ["--trust-path"],
        is_flag=True,
        help="As of 'pagecheck scan' (qmp: only).",
    ),
    *_WORKERS,
    *via("Let the service there ('pagecheck serve') stop the VM and punch its RAM."),
    JSON_ONLY,
    QUIET,
    verbose("Log progress to stderr."),
)


@click.command(
    params=[click.Argument(["source"]), *_OPTIONS],
    epilog=_CODES,
    short_help="Give the zero pages of a file or a VM's shared RAM back to the host.",
)
def punch(source: str, **options: Any) -> int:
    """Give the zero pages of a file, or of a VM's shared RAM, back to the host as holes.

    This writes: into a file that no other process has open or mapped, or into the shared RAM of a
    VM that is stopped meanwhile (qmp:, ch: and crosvm: sockets). Each page is looked at right
    before it becomes a hole, so that what is read there stays the same. Refused: private RAM, and
    VMs with a device that writes while the VM is stopped (VFIO, vhost-user).

    \b
    Examples:
      pagecheck punch guest.ram
      pagecheck punch --dry-run --json guest.ram
      pagecheck punch --max-pause 0.5 qmp:/run/vm1.qmp
      pagecheck punch --via /run/pagecheck.sock qmp:/run/vm1.qmp
    """
    from pagecheck.cli.perform_punch import perform_punch

    run = _puncher(options.pop("via"), options.pop("via_uid"), options)
    return perform_punch(source, run, **options)


def _puncher(
    via: str | None, via_uid: int | None, options: dict[str, Any]
) -> Callable[..., PunchReport]:
    """Who punches: this program, or a service."""
    if not require_service(via, via_uid, options, _WORKERS):
        from pagecheck.snapshot.punch import punch as embedded

        return embedded
    if options.pop("nobody_writes"):
        raise click.UsageError("--nobody-writes is for a file; a service punches VMs only")
    options.pop("format")
    if is_default("max_pause"):
        options["max_pause"] = None  # the service's
    from pagecheck.service.client import Client

    def by_service(source: str, **left: Any) -> PunchReport:
        assert via is not None
        with Client(via, service_uid=via_uid) as client:
            return client.punch(source, **left)

    return by_service
