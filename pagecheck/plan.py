"""What is to be scanned: validation of the request, conversion of data extents to runs of pages.
Pure arithmetic; no file is accessed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import Kind, RamBlock, Region, is_vm_source

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pagecheck.typed import NamedTuple

PAGE_MIN = 4096
PAUSE_MAX_S = 1e9


class Run(NamedTuple):
    """Consecutive pages of one kind: all of them in holes, or each with some data."""

    hole: bool
    first: int
    pages: int


class PartialPage(Exception):
    """A page of a diff snapshot is part hole, part data.

    Attributes:
        offset: byte offset in the file of the boundary inside the page.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def check_page_size(page_size: int) -> None:
    """Raises UsageError unless it is a power of two of at least 4096 bytes."""
    if page_size < PAGE_MIN or page_size & (page_size - 1):
        raise UsageError(f"page size {page_size}: not a power of two of at least {PAGE_MIN}")


def require_seconds(what: str, seconds: float, most: float = math.inf) -> None:
    """Raises UsageError unless it is a number of more than 0 seconds."""
    if not 0 < seconds <= most:
        raise UsageError(f"{what} {seconds}: must be more than 0 seconds")


def require_rate(max_rate: int | None) -> None:
    """Raises UsageError unless it is a number of more than 0 bytes per second, or no limit."""
    if max_rate is not None and max_rate <= 0:
        raise UsageError(f"max rate {max_rate}: must be more than 0 bytes per second")


def require_qmp(source: str) -> None:
    """Raises UsageError where `--trust-path` is given for a source other than QEMU."""
    if not source.startswith("qmp:"):
        raise UsageError(
            f"{source}: --trust-path is for the paths that QEMU reports, with qmp:SOCKET"
        )


def require_vm(source: str, swapped: str) -> None:
    """Raises UsageError where `--swapped read` is given for a source other than a VM."""
    if swapped != "leave" and not is_vm_source(source):
        raise UsageError(f"{source}: --swapped is for the private RAM of a running VM")


def no_diff(source: str) -> UsageError:
    """What to raise where a running VM's RAM is to be scanned as a diff snapshot."""
    return UsageError(f"{source}: a VM's RAM is not a diff snapshot: its holes are zero")


def require_regions(source: str, regions: Iterable[Sequence[Region]]) -> None:
    """Raises UsageError where the guest-physical addresses of a block are unknown.

    Args:
        regions: those of each block.
    """
    if not all(regions):
        raise UsageError(
            f"{source}: guest-physical addresses are known for qmp:SOCKET only; drop --gpa"
        )


def make_block(
    name: str, file_size: int, page_size: int, offset: int = 0, length: int | None = None
) -> RamBlock:
    """The part of a file that is to be scanned.

    Raises:
        UsageError: offset or length is not a multiple of the page size, or lies outside the file.
        SourceError: the file's size is not a multiple of the page size.
    """
    check_page_size(page_size)
    if offset < 0 or offset % page_size:
        raise UsageError(f"offset {offset}: not a multiple of the page size {page_size}")
    if offset >= file_size:
        raise UsageError(f"offset {offset}: at or past the end of {name} ({file_size} bytes)")
    if length is None:
        length = file_size - offset
        if length % page_size:
            raise SourceError(_not_whole(name, file_size, length, page_size))
    if length <= 0 or length % page_size:
        raise UsageError(f"length {length}: not a positive multiple of the page size {page_size}")
    if length > file_size - offset:
        raise UsageError(
            f"length {length} from offset {offset}: past the end of {name} ({file_size} bytes)"
        )
    return RamBlock(name, length, page_size, offset)


def _not_whole(name: str, file_size: int, length: int, page_size: int) -> str:
    what = f"{name}: size {file_size} is not a multiple of the page size {page_size}"
    fitting = math.gcd(length, page_size)
    if fitting >= PAGE_MIN:
        return f"{what}; give --page-size {fitting}, or --length for the part that is RAM"
    whole = length // page_size * page_size
    part = f"--length {whole} scans its whole pages" if whole else "it is less than a page"
    return (
        f"{what}, nor of any other: raw guest RAM is whole pages, so this file is truncated, or "
        f"has something before or after the RAM; {part}, and --offset leaves out what comes first"
    )


def page_runs(extents: Iterable[tuple[int, int]], block: RamBlock, kind: Kind) -> Iterator[Run]:
    """Converts data extents to runs of pages that cover the whole block, in order.

    A page is a hole only if all of it is.

    Args:
        extents: (begin, end) byte offsets in the file, ascending, inside the block's part.
        kind: `diff` refuses pages that are part hole, part data.

    Raises:
        PartialPage: there is such a page.
    """
    page = block.page_size
    done = 0  # pages answered so far
    pending: tuple[int, int] | None = None  # data pages whose end may still grow
    for begin, end in extents:
        if kind == "diff":
            for edge in (begin, end):
                if (edge - block.start) % page:
                    raise PartialPage(edge)
        first = (begin - block.start) // page
        last = -((block.start - end) // page)
        if pending is not None and first <= pending[1]:
            pending = (pending[0], max(pending[1], last))
            continue
        if pending is not None:
            yield Run(False, pending[0], pending[1] - pending[0])
            done = pending[1]
        if first > done:
            yield Run(True, done, first - done)
        pending = (first, last)
    if pending is not None:
        yield Run(False, pending[0], pending[1] - pending[0])
        done = pending[1]
    if done < block.pages:
        yield Run(True, done, block.pages - done)


def common_page_size(extents: Iterable[tuple[int, int]], block: RamBlock) -> int:
    """The largest power of two that every extent's edges are multiples of, from the block's
    start; less than 4096 where no page size fits."""
    common = block.page_size
    for begin, end in extents:
        common = math.gcd(common, begin - block.start, end - block.start)
    return common
