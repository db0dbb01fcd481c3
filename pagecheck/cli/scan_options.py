"""The options of `pagecheck scan`, in groups."""

from __future__ import annotations

from typing import Final

import click

from pagecheck.cli.options import (
    ENGINE,
    HOLES,
    MAX_RATE,
    PAGE_SIZE,
    QUIET,
    SIZE,
    channels,
    max_pause,
    verbose,
    via,
)

# What --via leaves to the service.
WORKERS: Final = (
    *ENGINE,
    channels(
        "Worker processes. Default: one per --wq; else the smallest of usable CPUs, cgroup quota, "
        "one per 256 MiB of data, and 16."
    ),
    click.Option(["--batch-pages"], type=int, metavar="N", help="Pages per batch. Default: 2 MiB."),
)

PAGES: Final = (
    PAGE_SIZE,
    click.Option(["--offset"], type=SIZE, default=0, help="First byte of the file to scan."),
    click.Option(["--length"], type=SIZE, help="Bytes to scan. Default: up to the end."),
    click.Option(
        ["--kind"],
        type=click.Choice(["full", "diff"]),
        default="full",
        show_default=True,
        help="In a full snapshot a hole is zero; in a diff it is unchanged.",
    ),
    HOLES,
    click.Option(
        ["--format"],
        type=click.Choice(["auto", "raw"]),
        default="auto",
        show_default=True,
        help="auto: refuse files that are certainly not raw RAM (disk images, cores, VM states, "
        "archives, compressed data). raw: treat any file as raw RAM.",
    ),
    MAX_RATE,
    click.Option(
        ["--deadline"],
        type=float,
        metavar="SECONDS",
        help="Limit for the whole scan. Default: none.",
    ),
)

VM: Final = (
    click.Option(
        ["--pause"],
        is_flag=True,
        help="Stop the VM during the scan (by its VMM's socket), so that the answer is exact.",
    ),
    max_pause("Then the VM is resumed, and the answer is a hint."),
    click.Option(
        ["--leave-stopped"],
        is_flag=True,
        help="With --pause: the VM stays stopped after a successful scan.",
    ),
    click.Option(
        ["--gpa"],
        is_flag=True,
        help="Show guest-physical addresses (qmp: only); with --ranges too.",
    ),
    click.Option(
        ["--swapped"],
        type=click.Choice(["leave", "read"]),
        default="leave",
        show_default=True,
        help="Pages of private RAM that are swapped out. leave: they stay so, and are undecided. "
        "read: read them, which brings them in.",
    ),
    click.Option(
        ["--trust-path"],
        is_flag=True,
        help="Open the path that QEMU reports where the kernel cannot prove which file holds the "
        "RAM (qmp: only).",
    ),
)

MAPPINGS: Final = (
    click.Option(
        ["--explain"],
        is_flag=True,
        help="Print on stderr why each mapping of the process is guest RAM or not (pid: only).",
    ),
    click.Option(
        ["--range", "address_range"],
        type=str,
        metavar="START-END",
        help="Scan these addresses of the process, in hex as in /proc/PID/maps, whatever they are "
        "(pid: only).",
    ),
)

VIA: Final = via("Let the service there ('pagecheck serve') scan, with its workers and engine.")

OUTPUT: Final = (
    click.Option(
        ["--out"],
        type=str,  # click.Path would look at it, and might wait for its file system
        metavar="DIR",
        help="Write NAME.zero, NAME.normal (bitmaps) and report.json there.",
    ),
    click.Option(
        ["--ranges"],
        is_flag=True,
        help="Print runs 'first-page count kind', not the table; with "
        "--gpa 'address bytes kind' in hex.",
    ),
    click.Option(
        ["--json", "as_json"], is_flag=True, help="Print the report as JSON, nothing else."
    ),
    QUIET,
    verbose("Log progress to stderr."),
)
