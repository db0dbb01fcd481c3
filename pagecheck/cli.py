"""The command line: parses, calls, prints, exits. One line on stderr for every error."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pagecheck._version import __version__
from pagecheck.errors import InternalError, PagecheckError
from pagecheck.hw.wq import DIGITS_MAX
from pagecheck.hw.wq import parse as parse_queue
from pagecheck.signals import Terminated, raise_pending
from pagecheck.streams import say

if TYPE_CHECKING:
    from pagecheck.hw.queues import Device
    from pagecheck.report import Report

EXIT_CODES = """
\b
Exit codes:
  0    every page was decided
  1    the scan ran, but pages stayed undecided
       (deadline, a file cut short, a batch set aside)
  2    a mistake in what was asked for
  3    the engine or kernel cannot run here, or too few workers start
  4    /dev/shm is full, or a bug in pagecheck
  130  interrupted (SIGINT)       143  terminated (SIGTERM)
  129  hung up (SIGHUP)           141  nobody reads the output (SIGPIPE)
"""

_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size(click.ParamType[int]):
    """Bytes, with K, M, G or T (also KiB and so on) for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses the text of an option."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("/S").removesuffix("IB").removesuffix("B")
        factor = _SUFFIXES.get(text[-1:], 1)
        number = text[:-1] if factor > 1 else text
        if not (number.isascii() and number.isdigit() and len(number) <= DIGITS_MAX):
            self.fail(f"{value!r} is not a size; write bytes or such as 64K, 512M, 4G", param, ctx)
        return int(number) * factor


SIZE = Size()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="pagecheck")
def cli() -> None:
    """Finds the zero pages of a virtual machine's RAM."""


@cli.command(epilog=EXIT_CODES, short_help="Find the zero pages of a RAM snapshot.")
@click.argument("source")
@click.option(
    "--engine",
    type=click.Choice(["auto", "dsa", "cpu", "none"]),
    default="auto",
    show_default=True,
    help="What decides a page. auto: dsa where a work queue can be used, else cpu. none: every "
    "page is normal and nothing is read.",
)
@click.option(
    "--wq",
    multiple=True,
    metavar="QUEUE",
    help="A DSA work queue such as /dev/dsa/wq0.0, or 'model:' for a software device. Repeat it "
    "for several: channels take them round robin. Default: those that 'pagecheck devices' finds.",
)
@click.option(
    "--fallback", is_flag=True, help="With --engine dsa: use the CPU where no queue can be had."
)
@click.option("--kernel", metavar="NAME", help="CPU kernel; see 'pagecheck kernels'.")
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
@click.option("--nice", type=int, default=0, help="Added to the workers' nice value.")
@click.option("--max-rate", type=SIZE, metavar="BYTES/S", help="Read no faster than this.")
@click.option("--deadline", type=float, metavar="SECONDS", help="For everything. Default: none.")
@click.option(
    "--stall",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A worker that makes no progress this long is replaced.",
)
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="Write NAME.zero, NAME.normal (bitmaps) and report.json there.",
)
@click.option("--ranges", is_flag=True, help="Print runs 'first-page count kind', not the table.")
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
    """Find the zero pages of a RAM snapshot.

    SOURCE is a file of raw guest RAM (a Firecracker memory file, Cloud Hypervisor memory-ranges, a
    QEMU memory-backend-file, pmemsave output; sparse or dense; on disk, tmpfs or hugetlbfs), fd:N
    (an inherited descriptor) or shm:/name (a POSIX shared-memory object). It is opened read-only
    and not changed: holes stay holes.

    \b
    Examples:
      pagecheck scan guest.ram
      pagecheck scan --json --out bitmaps /dev/shm/vm1
      pagecheck scan --kind diff snapshot.diff --ranges
      pagecheck scan --engine dsa --wq /dev/dsa/wq0.0 --wq /dev/dsa/wq2.0 guest.ram
    """
    if ranges and as_json:
        raise click.UsageError("--ranges and --json exclude each other")
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="pagecheck: %(message)s")
    from pagecheck.coordinator import scan as run

    for queue in options["wq"]:
        parse_queue(queue)
    if quiet or not sys.stderr.isatty():
        report = run(source, progress=_watch, **options)
    else:
        from pagecheck.present import ProgressBar

        with ProgressBar() as bar:

            def watch(done: int, total: int) -> None:
                _watch(done, total)
                bar(done, total)

            report = run(source, progress=watch, **options)
    raise_pending()
    if not quiet or as_json:
        _print_report(report, ranges=ranges, as_json=as_json)
    return 1 if report.total.undecided else 0


def _watch(_done: int, _total: int) -> None:
    raise_pending()


def _print_report(report: Report, *, ranges: bool, as_json: bool) -> None:
    from pagecheck import present

    if as_json:
        print(json.dumps(report.to_json()))
        return
    if not ranges:
        print(present.table(report))
        return
    for block in report.blocks:
        for first, count, kind in present.runs(block):
            print(first, count, kind)
    for note in report.notes:
        say(f"note: {present.printable(note)}")


@cli.command(short_help="List the CPU kernels and which one is picked here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def kernels(*, as_json: bool) -> int:
    """List the CPU kernels of this architecture, best first.

    A kernel proves itself on every byte position of a page before it is used.
    """
    from pagecheck.hw.kernels import list_kernels
    from pagecheck.present import columns

    found = list_kernels()
    if as_json:
        entries = [
            {
                "name": kernel.name,
                "usable": kernel.unusable is None,
                "auto": kernel.automatic,
                "why": kernel.unusable,
                "untested": kernel.untested,
            }
            for kernel in found
        ]
        print(json.dumps({"version": 1, "kernels": entries}))
        return 0
    rows = [["kernel", "usable here", "auto"]]
    for kernel in found:
        usable = "yes" if kernel.unusable is None else f"no: {kernel.unusable}"
        rows.append([kernel.name, usable, "*" if kernel.automatic else ""])
    print(columns(rows))
    for kernel in found:
        if kernel.untested is not None:
            print(f"note: {kernel.name}: {kernel.untested}")
    return 0


@cli.command(short_help="List the DSA devices and work queues and what is wrong with them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def devices(*, as_json: bool) -> int:
    """List the Intel DSA devices of this host and their work queues.

    Each queue that looks usable is opened for an instant and closed again, to learn how descriptors
    may be submitted by this user. For a queue that cannot be used it says why, and what to do.
    """
    from pagecheck.hw.queues import list_devices, why_no_device

    found = list_devices(probe=True)
    if as_json:
        print(json.dumps({"version": 1, "devices": [_device_json(device) for device in found]}))
    elif found:
        _print_devices(found)
    else:
        print(why_no_device())
    return 0


def _device_json(device: Device) -> dict[str, Any]:
    queues = [
        {
            "name": queue.name,
            "path": queue.path,
            "mode": queue.mode,
            "size": queue.size,
            "threshold": queue.threshold,
            "max_batch": queue.max_batch,
            "max_transfer": queue.max_transfer,
            "submit": queue.submit,
            "batches": queue.batches,
            "usable": queue.unusable is None,
            "why": queue.unusable,
            "note": queue.note,
        }
        for queue in device.queues
    ]
    return {
        "name": device.name,
        "version": device.version,
        "state": device.state,
        "numa_node": None if device.numa_node < 0 else device.numa_node,
        "max_batch": device.max_batch,
        "max_transfer": device.max_transfer,
        "usable": device.unusable is None,
        "why": device.unusable,
        "queues": queues,
    }


def _print_devices(found: list[Device]) -> None:
    """A table, then one line per reason; queues with the same reason share it."""
    from pagecheck.present import columns

    rows = [["", "mode", "size", "threshold", "batch", "transfer", "NUMA", "submit", "usable"]]
    reasons: dict[str, list[str]] = {}
    for device in found:
        limits = [str(device.max_batch), str(device.max_transfer)]
        numa = "-" if device.numa_node < 0 else str(device.numa_node)
        usable = "yes" if device.unusable is None else "no"
        kind = f"DSA {device.version >> 8}.{device.version & 0xFF}"
        rows.append([device.name, kind, "", "", *limits, numa, "", usable])
        if device.unusable is not None:
            reasons[device.unusable] = [*reasons.get(device.unusable, []), device.name]
        for queue in device.queues:
            entries = [str(queue.size), str(queue.threshold) if queue.threshold else "-"]
            batch = "no" if queue.submit and not queue.batches else str(queue.max_batch)
            usable = "yes" if queue.unusable is None else "no"
            row = [f"  {queue.name}", queue.mode, *entries, batch, str(queue.max_transfer), numa]
            rows.append([*row, queue.submit or "-", usable])
            why = queue.unusable or (f"note: {queue.note}" if queue.note else None)
            if why is not None and device.unusable is None:
                reasons[why] = [*reasons.get(why, []), queue.name]
    print(columns(rows))
    for why, names in reasons.items():
        print(f"{', '.join(names)}: {why}")


def _fail(name: str, text: str, code: int, *, as_json: bool) -> int:
    text = " ".join(text.split())
    if as_json:
        print(json.dumps({"version": 1, "error": {"class": name, "message": text}}))
    say(f"pagecheck: {text}")
    return code


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code.

    Raises:
        OSError: what it printed could not be written.
    """
    as_json = "--json" in arguments
    try:
        # click would turn a closed pipe into exit code 1; the context manager does not.
        with cli.make_context("pagecheck", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail("UsageError", error.format_message(), 2, as_json=as_json)
    except PagecheckError as error:
        return _fail(type(error).__name__, str(error), error.exit_code, as_json=as_json)
    except Terminated as error:
        return _fail("Terminated", str(error), error.exit_code, as_json=as_json)
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        return _bug(error, as_json=as_json)
    except Exception as error:
        return _bug(error, as_json=as_json)


def _bug(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("PAGECHECK_DEBUG"):
        raise error
    what = f"a bug in pagecheck: {type(error).__name__}: {error}; PAGECHECK_DEBUG=1 shows where"
    return _fail(InternalError.__name__, what, InternalError.exit_code, as_json=as_json)
