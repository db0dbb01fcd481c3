"""`pagecheck scan`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import EXIT_CODES, SIZE, engine_options
from pagecheck.cli.signals import raise_pending
from pagecheck.cli.streams import log_to_stderr, require_reader, say
from pagecheck.hw.wq import parse as parse_queue

if TYPE_CHECKING:
    from pagecheck.report.report import Report

_NOT_VIA: Final = (
    "engine",
    "wq",
    "fallback",
    "kernel",
    "channels",
    "batch_pages",
    "nice",
    "stall",
)


@click.command(
    epilog=EXIT_CODES, short_help="Find the zero pages of a RAM snapshot or a running VM."
)
@click.argument("source")
@engine_options
@click.option(
    "--channels",
    type=int,
    metavar="N",
    help="Worker processes. Default: one per --wq; else the smallest of usable CPUs, cgroup quota, "
    "one per 256 MiB of data, and 16.",
)
@click.option("--page-size", type=SIZE, default="4K", show_default=True, help="Bytes per page.")
@click.option("--batch-pages", type=int, metavar="N", help="Pages per batch. Default: 2 MiB.")
@click.option("--offset", type=SIZE, default=0, help="First byte of the file to scan.")
@click.option("--length", type=SIZE, help="Bytes to scan. Default: up to the end.")
@click.option(
    "--kind",
    type=click.Choice(["full", "diff"]),
    default="full",
    show_default=True,
    help="In a full snapshot a hole is zero; in a diff it is unchanged.",
)
@click.option(
    "--holes",
    type=click.Choice(["trust", "read"]),
    default="trust",
    show_default=True,
    help="read: look at the pages even where the file system reports a hole.",
)
@click.option(
    "--format",
    type=click.Choice(["auto", "raw"]),
    default="auto",
    show_default=True,
    help="auto: refuse files that are certainly no raw RAM (disk images, cores, VM states, "
    "archives, compressed data). raw: take any file for raw RAM.",
)
@click.option("--max-rate", type=SIZE, metavar="BYTES/S", help="Read no faster than this.")
@click.option("--deadline", type=float, metavar="SECONDS", help="For everything. Default: none.")
@click.option(
    "--pause", is_flag=True, help="Stop the VM meanwhile (qmp: only), so that the answer is exact."
)
@click.option(
    "--max-pause",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Then the VM runs on, and the answer is a hint.",
)
@click.option(
    "--leave-stopped",
    is_flag=True,
    help="With --pause: the VM stays stopped after a scan that ends well.",
)
@click.option(
    "--gpa", is_flag=True, help="Tell guest-physical addresses (qmp: only); with --ranges too."
)
@click.option(
    "--trust-path",
    is_flag=True,
    help="Open the path that QEMU tells where nothing proves which file its RAM is (qmp: only).",
)
@click.option(
    "--via",
    type=str,
    metavar="SOCKET",
    help="Let the service there do it ('pagecheck serve'), with its workers and engine.",
)
@click.option(
    "--via-uid",
    type=click.IntRange(0),
    metavar="UID",
    help="The user that the service of --via runs as, where that is neither root nor you.",
)
@click.option(
    "--out",
    type=str,  # click.Path would look at it, and might wait for its file system
    metavar="DIR",
    help="Write NAME.zero, NAME.normal (bitmaps) and report.json there.",
)
@click.option(
    "--ranges",
    is_flag=True,
    help="Print runs 'first-page count kind', not the table; with "
    "--gpa 'address bytes kind' in hex.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is going on.")
def scan(
    source: str,
    *,
    ranges: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
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
      pid:PID[:NAME]  the guest RAM that a VMM's process shares (memfd or file)
      qmp:SOCKET      QEMU 7.2 or later, unmodified, by a QMP socket of its own

    It is opened read-only and not changed: holes stay holes. RAM that the VMM does not share
    (share=off) is refused. While the guest runs the answer is a hint; --pause makes it exact.

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
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    for queue in options["wq"]:
        parse_queue(queue)
    if not quiet or as_json:
        require_reader()
    run = _how(options.pop("via"), options.pop("via_uid"), options)
    if quiet or not sys.stderr.isatty():
        report = run(source, progress=_watch, **options)
    else:
        from pagecheck.cli.present import ProgressBar

        with ProgressBar() as bar:

            def watch(done: int, total: int) -> None:
                _watch(done, total)
                bar(done, total)

            report = run(source, progress=watch, **options)
    raise_pending()
    if not quiet or as_json:
        _print_report(report, ranges=ranges, as_json=as_json)
    return 1 if report.total.undecided else 0


def _how(via: str | None, via_uid: int | None, options: dict[str, Any]) -> Callable[..., Report]:
    """Who scans: this program, or a service."""
    if via is None and via_uid is not None:
        raise click.UsageError("--via-uid goes with --via SOCKET")
    if via is None:
        from pagecheck.oneshot import scan as embedded

        return embedded
    chosen = click.get_current_context()
    for name in _NOT_VIA:
        if chosen.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is the service's to choose; drop it or --via")
        options.pop(name)
    from pagecheck.service.client import Client

    def by_service(source: str, **left: Any) -> Report:
        with Client(via, service_uid=via_uid) as client:
            return client.scan(source, **left)

    return by_service


def _watch(_done: int, _total: int) -> None:
    raise_pending()


def _print_report(report: Report, *, ranges: bool, as_json: bool) -> None:
    from pagecheck.cli import present

    if as_json:
        print(json.dumps(report.to_json()))
        return
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
