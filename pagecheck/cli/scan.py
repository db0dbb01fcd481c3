"""`pagecheck scan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import EXIT_CODES
from pagecheck.cli.perform import Shown, perform
from pagecheck.cli.scan_options import MAPPINGS, OUTPUT, PAGES, VIA, VM, WORKERS
from pagecheck.cli.via import is_default, require_service

if TYPE_CHECKING:
    from pagecheck.report.report import Report

_OPTIONS: Final = (*WORKERS, *PAGES, *VM, *MAPPINGS, *VIA, *OUTPUT)


def complete(_context: click.Context, _source: click.Parameter, incomplete: str) -> list[Any]:
    """Sources that the argument of a command can be."""
    from pagecheck.cli.completion import complete_source

    return complete_source(incomplete)


@click.command(
    params=[click.Argument(["source"], shell_complete=complete), *_OPTIONS],
    epilog=EXIT_CODES,
    short_help="Find the zero pages of a RAM snapshot or a running VM.",
)
def scan(
    source: str,
    *,
    ranges: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    explain: bool,
    address_range: str | None,
    **options: Any,
) -> int:
    """Find the zero pages of a RAM snapshot or of a running VM's RAM.

    SOURCE is one of

    \b
      PATH            a file of raw guest RAM (a Firecracker memory file, Cloud
                      Hypervisor memory-ranges, a QEMU memory-backend-file,
                      pmemsave output; sparse or dense; on disk, tmpfs, hugetlbfs)
      fd:N            an inherited descriptor
      shm:/name       a POSIX shared-memory object
      pid:PID[:NAME]  the guest RAM of any VMM's process, shared or private
      qmp:SOCKET      QEMU 7.2 or later, unmodified, by a dedicated QMP socket
      fc:SOCKET       Firecracker, by its API socket
      ch:SOCKET       Cloud Hypervisor, by its API socket
      crosvm:SOCKET   crosvm, by its control socket and the program crosvm

    It is opened read-only and not changed: holes stay holes. The RAM of a running VM needs no
    preparation, but the rights of a debugger over its process ("pagecheck vms" tells). While the
    guest runs the answer is a hint; --pause makes it exact.

    \b
    Examples:
      pagecheck scan guest.ram
      pagecheck scan --json --out bitmaps /dev/shm/vm1
      pagecheck scan --kind diff snapshot.diff --ranges
      pagecheck scan --pause --gpa qmp:/run/vm1.qmp
      pagecheck scan pid:4711
      pagecheck scan --via /run/pagecheck.sock /dev/shm/vm1
      pagecheck scan --engine dsa --wq /dev/dsa/wq0.0 --wq /dev/dsa/wq2.0 guest.ram
    """
    if ranges and as_json:
        raise click.UsageError("--ranges and --json exclude each other")
    if address_range is not None:
        source = _of_range(source, address_range)
    if explain:
        if options["via"] is not None:
            raise click.UsageError("--explain looks from here; drop it or --via")
        _explain(source, as_json=as_json)
    run = scanner(options.pop("via"), options.pop("via_uid"), options)
    shown = Shown(ranges=ranges, as_json=as_json, quiet=quiet, verbose=verbose)
    return perform(run, source, options, shown)


def _of_range(source: str, addresses: str) -> str:
    """The source that names a range of a process's addresses."""
    from pagecheck.vmm.find.candidates import parse_range

    parse_range(addresses)
    if not source.startswith("pid:") or ":" in source.removeprefix("pid:"):
        raise click.UsageError(f"--range is for the addresses of pid:PID, not of {source}")
    return f"{source}:@{addresses}"


def _explain(source: str, *, as_json: bool) -> None:
    from pagecheck.cli.explain import show
    from pagecheck.vmm.find.explain import explain

    show(explain(source), as_json=as_json)


def scanner(via: str | None, via_uid: int | None, options: dict[str, Any]) -> Callable[..., Report]:
    """Who scans: this program, or a service, which has its own workers."""
    if not require_service(via, via_uid, options, WORKERS):
        from pagecheck.oneshot import scan as embedded

        return embedded
    assert via is not None
    if is_default("max_pause"):
        options["max_pause"] = None  # the service's
    from pagecheck.service.client import Client

    def by_service(source: str, **left: Any) -> Report:
        with Client(via, service_uid=via_uid) as client:
            return client.scan(source, **left)

    return by_service
