"""The commands `fetch` and `boot`: parse, print, exit."""

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from tools.guest.errors import GuestError
from tools.guest.fetch import cache_folder
from tools.guest.fetch import fetch as fetch_files
from tools.guest.guest import Guest
from tools.guest.snapshot import copy_sparse
from tools.guest.spec import BACKENDS, MACHINES, MIB, PRIVATE_BACKENDS
from tools.guest.trixie import fetch_qemu10

_UNITS = {"M": MIB, "G": 1024 * MIB}


def _size_bytes(text: str) -> int:
    """Reads a size such as 256M or 2G."""
    number, unit = text[:-1], text[-1:].upper()
    if not number.isdecimal() or unit not in _UNITS:
        raise ValueError(text)  # click says which option, and shows the text
    return int(number) * _UNITS[unit]


@click.group()
def main() -> None:
    """A real Linux guest in QEMU whose RAM can be read from outside."""


@main.command()
@click.option("--qemu10", is_flag=True, help="QEMU 10, too, and a guest on ARM (100 MB).")
def fetch(qemu10: bool) -> None:
    """Download a kernel and build the initramfs, without root; does nothing the second time."""
    try:
        files = fetch_files()
        newer = fetch_qemu10(cache_folder()) if qemu10 else None
    except GuestError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"qemu       {files.qemu}\nkernel     {files.kernel}\ninitramfs  {files.initramfs}")
    if newer is not None:
        click.echo(f"QEMU 10    {newer}")


@main.command()
@click.option(
    "--size", type=_size_bytes, metavar="SIZE", default="256M", show_default=True, help="Guest RAM."
)
@click.option("--machine", type=click.Choice(list(MACHINES)), default="q35", show_default=True)
@click.option("--backend", type=click.Choice(BACKENDS), default="file", show_default=True)
@click.option("--random", "random_mb", default=8, show_default=True, help="MiB of random bytes.")
@click.option("--zeros", "zeros_mb", default=8, show_default=True, help="MiB of zero bytes.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until it is filled.")
@click.option(
    "--ram-folder",
    type=click.Path(path_type=Path),
    default="/dev/shm",
    show_default=True,
    help="Where the RAM file is made.",
)
@click.option("--snapshot", type=click.Path(path_type=Path), help="Copy its RAM to this file.")
@click.option("--keep", is_flag=True, help="Hold the paused guest until Ctrl-C.")
def boot(
    size: int,
    machine: str,
    backend: str,
    random_mb: int,
    zeros_mb: int,
    timeout: float,
    ram_folder: Path,
    snapshot: Path | None,
    keep: bool,
) -> None:
    """Boot a guest, wait until it has filled its memory, pause it, print where its RAM is."""
    in_a_file = backend not in PRIVATE_BACKENDS
    if snapshot is not None and not in_a_file:
        raise click.UsageError(f"--snapshot: no file holds the RAM of --backend {backend}")
    signal.signal(signal.SIGTERM, _leave)
    try:
        with Guest.boot(
            size_bytes=size,
            machine=machine,
            backend=backend,
            random_mb=random_mb,
            zeros_mb=zeros_mb,
            timeout_s=timeout,
            ram_folder=ram_folder,
        ) as guest:
            guest.pause()
            click.echo(f"filled after {guest.boot_s:.1f} s, paused, QEMU {guest.pid}", err=True)
            click.echo(guest.ram_path if in_a_file else f"pid:{guest.pid}")
            if snapshot is not None:
                copied = copy_sparse(guest.ram_path, snapshot)
                click.echo(f"{snapshot}: {copied} of {size} bytes, the rest holes", err=True)
            if keep:
                click.echo("Ctrl-C ends the guest", err=True)
                _hold()
    except (GuestError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _hold() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _leave(number: int, _frame: FrameType | None) -> None:
    """Turns SIGTERM into an exit that unwinds, so that the guest goes too."""
    sys.exit(128 + number)
