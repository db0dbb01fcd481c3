"""A snapshot's RAM laid out over RAM that exists: only what differs is written or cleared.

Facts: workers decide the pages of a RAM file and, of a target that has pages, write at once what
differs, in parallel. Pages in holes of the RAM file are never sent to
them. Danger: what is zero in the snapshot and not zero in the target. Decision: a target that has
pages is looked at once more, and what should be zero and is not becomes a hole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pagecheck.errors import OutputError, SourceError
from pagecheck.native import _native
from pagecheck.printable import printable

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.coordinator.scan import ScanResult
    from pagecheck.snapshot.ram_target import RamTarget

Progress = Callable[[int, int], None]


class LaidOut(NamedTuple):
    """What was done to one RAM file.

    Attributes:
        name: the block's.
        path: the file's.
        size: bytes.
        zero: zero pages of the block.
        normal: all others.
        written: pages that were written.
        cleared: pages that were not zero before and are now.
        allocated: bytes that the file has allocated.
        is_new: the file was created.
    """

    name: str
    path: str
    size: int
    zero: int
    normal: int
    written: int
    cleared: int
    allocated: int
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """Its members in the JSON report."""
        return self._asdict()


def lay_out_onto(
    coordinator: Coordinator,
    name: str,
    fd: int,
    target: RamTarget,
    *,
    page_size: int,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> LaidOut:
    """Makes a file that has RAM hold what a RAM file holds.

    Args:
        coordinator: whose workers do it.
        name: the block's.
        fd: of the snapshot's RAM file, which was verified.
        target: of the same size.
        page_size: bytes.
        max_rate: bytes per second that may be read.
        progress: called with (bytes done, bytes in total) now and then.

    Raises:
        OutputError: the target cannot be written.
        SourceError: the RAM file cannot be read.
    """
    result = _copied(coordinator, fd, target, page_size, max_rate, progress)
    counts = result.report.counts
    cleared = _clear(coordinator, target, result, page_size)
    return LaidOut(
        name,
        target.path,
        target.size,
        counts.zero,
        counts.normal,
        result.written,
        cleared,
        target.allocated,
        is_new=False,
    )


def _copied(
    coordinator: Coordinator,
    fd: int,
    target: RamTarget,
    page_size: int,
    max_rate: int | None,
    progress: Progress | None,
) -> ScanResult:
    """Copies what the RAM file holds."""
    block = coordinator.attach(
        f"fd:{fd}",
        page_size=page_size,
        access="read",
        format="raw",
        copy_to=target.fd,
        copy_update=True,
    )
    try:
        result = coordinator.scan_block(block, max_rate=max_rate, progress=progress)
        assert block.sink is not None
        if block.sink.write_error is not None:
            raise target.refusal(
                OSError(block.sink.write_error, os.strerror(block.sink.write_error))
            )
        why = block.sink.why_incomplete()
    finally:
        coordinator.detach(block)
    if why is not None:
        raise OutputError(f"{printable(target.path)}: {why}")
    _require_decided(result, target.path)
    return result


def _require_decided(result: ScanResult, path: str) -> None:
    if undecided := result.report.counts.undecided:
        notes = "; ".join(dict.fromkeys(result.notes)) or "they cannot be read"
        raise SourceError(f"{printable(path)}: {undecided} pages are undecided: {printable(notes)}")


def _looked_at(coordinator: Coordinator, fd: int, page_size: int, path: str) -> ScanResult:
    """What a file holds now."""
    block = coordinator.attach(f"fd:{fd}", page_size=page_size, access="read", format="raw")
    try:
        result = coordinator.scan_block(block)
    finally:
        coordinator.detach(block)
    _require_decided(result, path)
    return result


def _clear(coordinator: Coordinator, target: RamTarget, copied: ScanResult, page_size: int) -> int:
    """Makes holes of the pages that are not zero and should be; returns how many.

    What the workers were sent they have compared; this is about holes of the snapshot.
    """
    found = _looked_at(coordinator, target.fd, page_size, target.path)
    pages = target.size // page_size
    wrong = bytearray(found.report.normal)
    should = copied.report.zero
    cleared = 0
    for first, end in _ones(wrong, pages):
        for begin, stop in _ones(should, end, first):
            try:
                target.punch(begin * page_size, (stop - begin) * page_size)
            except OSError as error:
                raise target.refusal(error) from error
            cleared += stop - begin
    return cleared


def _ones(words: Any, end: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of bits that are set."""
    while first < end:
        is_set, stop = _native.bits_run(words, end, first)
        if is_set:
            yield first, stop
        first = stop
