"""`pagecheck info`: what is in a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pagecheck.cli.options import complete_folder
from pagecheck.cli.streams import require_reader
from pagecheck.cli.verify import CODES
from pagecheck.cli.via import HERE, require_there, with_via

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.values import Disk, Snapshot, SnapshotBlock

_CODES = CODES.replace("every byte is as it was saved", "it is shown")


@click.command(epilog=_CODES, short_help="Show what is in a snapshot.")
@click.argument("directory", shell_complete=complete_folder, metavar="DIR")
@click.option(
    "--ranges",
    is_flag=True,
    help="Print where its zero pages are: runs 'first-page count kind' of each block, or 'address "
    "bytes kind' in hex where it is known where the guest has the block.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
@with_via(HERE)
def info(
    directory: str, *, ranges: bool, as_json: bool, via: str | None, via_uid: int | None
) -> int:
    """Show what is in the snapshot in DIR: the VM, its RAM, its disks.

    Only the manifest and, with --ranges, the bitmaps are read and checked; pagecheck verify checks
    every byte.

    \b
    Examples:
      pagecheck info /snapshots/vm1
      pagecheck info --ranges /snapshots/vm1
      pagecheck info --json /snapshots/vm1 | jq .manifest.machine
    """
    from pagecheck.snapshot import manifest
    from pagecheck.snapshot.files import Folder
    from pagecheck.snapshot.info import bitmaps

    require_reader()
    require_there(via, via_uid)
    with Folder(directory) as folder:
        snapshot = manifest.read_in(folder)
        if as_json:
            _print_json(folder, snapshot, ranges=ranges)
        elif ranges:
            for block, zero in zip(snapshot.blocks, bitmaps(folder, snapshot), strict=True):
                for line in _lines(snapshot.page_bytes, block, zero):
                    print(line)
        else:
            print(_text(folder, snapshot))
    return 0


def _print_json(folder: Folder, snapshot: Snapshot, *, ranges: bool) -> None:
    import json

    from pagecheck.snapshot.info import bitmaps, bytes_on_disk, zero_runs
    from pagecheck.snapshot.manifest import members

    document: dict[str, Any] = {
        "version": 1,
        "manifest": members(snapshot),
        "bytes_on_disk": bytes_on_disk(folder, snapshot),
    }
    text = json.dumps(document)
    if not ranges:
        print(text)
        return
    # Piece by piece: there may be as many runs as pages.
    zeros = bitmaps(folder, snapshot)
    print(text[:-1], end=', "zero_runs": {')
    for number, (block, zero) in enumerate(zip(snapshot.blocks, zeros, strict=True)):
        print(", " if number else "", json.dumps(block.name), sep="", end=": [")
        comma = ""
        for first, count, is_zero in zero_runs(zero, block.size // snapshot.page_bytes):
            if is_zero:
                print(comma, [first, count], sep="", end="")
                comma = ", "
        print(end="]")
    print("}}")


def _lines(page: int, block: SnapshotBlock, zero: bytes) -> Iterator[str]:
    """The runs of `pagecheck scan --ranges`.

    Args:
        page: bytes of each.
        zero: the block's bitmap.
    """
    from pagecheck.snapshot.info import zero_runs

    pages = block.size // page
    if not block.regions:
        for first, count, is_zero in zero_runs(zero, pages):
            yield f"{first} {count} {'zero' if is_zero else 'normal'}"
    for region in sorted(block.regions, key=lambda each: each.gpa):
        stop = region.offset + region.size
        for first, count, is_zero in zero_runs(zero, -(-stop // page), region.offset // page):
            low, high = max(first * page, region.offset), min((first + count) * page, stop)
            address = region.gpa + low - region.offset
            yield f"{address:#x} {high - low:#x} {'zero' if is_zero else 'normal'}"


def _text(folder: Folder, snapshot: Snapshot) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable, printable_lines
    from pagecheck.snapshot.info import bytes_on_disk

    rows = [["block", "size", "pages", "zero", "normal", "zero share", "RAM was", "stored as"]]
    for block in snapshot.blocks:
        pages = block.zero + block.normal
        tenths = 1000 * block.zero // pages  # never rounded up to 100 %
        stored = "sparse" if block.compression is None else block.compression.algorithm
        numbers = [f"{number:,}" for number in (pages, block.zero, block.normal)]
        share = f"{tenths // 10}.{tenths % 10} %"
        name = printable(block.name)
        rows.append([name, size_text(block.size), *numbers, share, block.backend, stored])
    on_disk = size_text(bytes_on_disk(folder, snapshot))
    lines = [
        f"made by {snapshot.made_by}, {snapshot.created}; {on_disk} on disk; {_exactness(snapshot)}"
    ]
    lines += _machine(snapshot)
    lines += [_disk(each) for each in snapshot.disks]
    table = printable_lines(columns(rows, (0, 6, 7)))
    return "\n".join([table, *map(printable, lines)])


def _exactness(snapshot: Snapshot) -> str:
    if not snapshot.exact:
        return "a hint: the RAM may have changed meanwhile"
    return "exact: the RAM did not change meanwhile"


def _machine(snapshot: Snapshot) -> list[str]:
    machine = snapshot.machine
    if machine is None:
        return ["of memory files: there is no VM to restore"]
    known = [machine.vmm, machine.vmm_version, machine.arch, machine.machine_type]
    cpus = "" if machine.vcpus is None else f", {machine.vcpus} virtual CPUs"
    state = "" if snapshot.state is not None else "; without the state of its devices"
    return [" ".join(each for each in known if each) + cpus + state]


def _disk(disk: Disk) -> str:
    kept = {
        "overlay": f"kept as of that moment; the VM went on in {disk.overlay}",
        "quit": "as the VM left it when it ended with the save",
        "none": "not kept" if disk.writable else "read-only",
    }[disk.kept]
    return f"disk {disk.device}: {disk.path or 'no file'}: {kept}"
