"""A snapshot's RAM laid out over RAM that exists: only what differs is written or cleared.

Facts: workers decide the pages of a RAM file and, of a target that has pages, write at once what
differs, in parallel. Pages in holes of the RAM file are never sent to
them. Danger: what is zero in the snapshot and not zero in the target. Decision: a target that has
pages is looked at once more, and what should be zero and is not becomes a hole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck.errors import OutputError, SourceError
from pagecheck.native import _native
from pagecheck.printable import printable
from pagecheck.snapshot.checksums import ram_digests
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.ram_files import RawRam
from pagecheck.snapshot.values import CHUNK_BYTES
from pagecheck.snapshot.verify import merged

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.coordinator.scan import ScanResult
    from pagecheck.snapshot.ram_target import RamTarget

Progress = Callable[[int, int], None]

_ZEROS: Final = bytes(CHUNK_BYTES)


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
    cleared = _clear(target, result, page_size, max_rate, progress)
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
        length=target.size,
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


def _clear(
    target: RamTarget,
    copied: ScanResult,
    page_size: int,
    max_rate: int | None,
    progress: Progress | None,
) -> int:
    """Makes holes of the pages that are not zero and should be; returns how many.

    What the workers were sent they have compared; this is about holes of the snapshot. The target
    is read through its one descriptor: to open it anew would break the lease.
    """
    should, pages = copied.report.zero, target.size // page_size
    wrong: set[int] = set()

    def look(at: int, content: bytes | bytearray) -> None:
        end = -(-(at + len(content)) // page_size)
        for begin, stop in _ones(should, min(pages, end), at // page_size):
            if not _is_zero(content, begin * page_size - at, stop * page_size - at):
                starts = ((page, page * page_size - at) for page in range(begin, stop))
                wrong.update(
                    page for page, here in starts if not _is_zero(content, here, here + page_size)
                )

    try:
        ram = RawRam(target.fd, target.size)
        ram_digests(ram, look=look, progress=progress, pace=Pace(max_rate))
        for first, last in merged(sorted(wrong)):
            target.punch(first * page_size, (last + 1 - first) * page_size)
    except OSError as error:
        raise target.refusal(error) from error
    return len(wrong)


def _is_zero(content: bytes | bytearray, begin: int, end: int) -> bool:
    begin, end = max(0, begin), min(len(content), end)
    return content.startswith(_ZEROS[: end - begin], begin)


def _ones(words: Any, end: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of bits that are set."""
    while first < end:
        is_set, stop = _native.bits_run(words, end, first)
        if is_set:
            yield first, stop
        first = stop
