"""What a scan is of: a file's block, or the blocks of a running VM, open and checked."""

from __future__ import annotations

import contextlib

from pagecheck.coordinator.settings import check_choice
from pagecheck.errors import SourceError, UsageError
from pagecheck.model import Swapped, is_vm_source
from pagecheck.plan import make_block, no_diff, require_qmp, require_regions, require_vm
from pagecheck.shm.ram import open_source

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import NamedTuple

    from pagecheck.model import Format, Kind, RamBlock, Region
    from pagecheck.shm.process_ram import ProcessRam
    from pagecheck.shm.ram import RamSource
    from pagecheck.vmm import Vm
else:
    from pagecheck.typed import NamedTuple


class Found(NamedTuple):
    """One block that is to be scanned, and where it comes from, open."""

    source: RamSource | ProcessRam
    ram: RamBlock
    regions: tuple[Region, ...]


class Opened(NamedTuple):
    """The source, open.

    Attributes:
        blocks: the readable ones; at least one.
        vm: the running VM whose RAM they are, if it is one's.
    """

    text: str
    page_size: int
    blocks: list[Found]
    vm: Vm | None


def open_scanned(
    stack: contextlib.ExitStack,
    text: str,
    page_size: int,
    offset: int,
    length: int | None,
    format: Format,
    *,
    trust_path: bool,
    swapped: Swapped,
) -> Opened:
    """Opens the source; `pagecheck.scan` documents the arguments.

    Args:
        stack: closes it.

    Raises:
        SourceError, UsageError: as `pagecheck.scan`.
    """
    if trust_path:
        require_qmp(text)
    check_choice("swapped", swapped, Swapped)
    require_vm(text, swapped)
    if not is_vm_source(text):
        ram = open_source(text, format)
        stack.callback(ram.close)
        try:
            block = make_block(ram.name, ram.size, page_size, offset, length)
        except SourceError as error:  # of a wrong size; what the file may be instead is known
            raise SourceError("; ".join((str(error), *ram.notes))) from error
        return Opened(text, page_size, [Found(ram, block, ())], None)
    if offset or length is not None:
        raise UsageError(
            f"{text}: the VM says what its RAM is; --offset and --length are for files"
        )
    from pagecheck.vmm import open_vm

    vm = stack.enter_context(open_vm(text, trust_path=trust_path, read_swapped=swapped == "read"))
    blocks = [
        Found(
            ram.source,
            make_block(ram.source.name, ram.source.size, page_size, ram.start, ram.size),
            ram.regions,
        )
        for ram in vm.rams
    ]
    for each in vm.unreadable:  # before a scan, not after it
        make_block(each.name, each.size, page_size)
    return Opened(text, page_size, blocks, vm)


def check_vm(opened: Opened, kind: Kind, *, pause: bool, gpa: bool) -> None:
    """Raises UsageError where what is asked for does not go with the source."""
    text, vm = opened.text, opened.vm
    if vm is not None and kind == "diff":
        raise no_diff(text)
    if pause and (vm is None or not vm.can_pause):
        raise UsageError(
            f"{text}: a VM is paused by its VMM's socket: give qmp:SOCKET, fc:SOCKET, ch:SOCKET or "
            "crosvm:SOCKET, or pause it with the VMM's own tool"
        )
    if gpa:
        require_regions(text, [found.regions for found in opened.blocks])
