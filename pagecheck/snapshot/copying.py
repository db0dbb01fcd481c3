"""The RAM of a snapshot: what is copied of each block, in one pass or two.

Facts: the workers write each page that they find to be normal to the block's file, and answer only
what they wrote. A first pass beside the running VM leaves in the file what was there at some
moment; the second one, while the VM is stopped, compares each page with the file and writes what
differs.
Danger: a page that had data in the first pass and is a hole of its backing in the second: no worker
looks at it, and the file still has the data. Decision: pages that are zero at the end and were not
known to be zero before are punched out of the file, after the VM runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pagecheck import clock
from pagecheck.errors import OutputError, SourceError
from pagecheck.native import _native
from pagecheck.report.publish import sync
from pagecheck.shm.ram import DISK, TMPFS
from pagecheck.snapshot.holes import punch
from pagecheck.snapshot.room import fits_in_memory

if TYPE_CHECKING:
    from pagecheck.coordinator import Block, Coordinator
    from pagecheck.coordinator.scan import ScanResult
    from pagecheck.sources import Found
    from pagecheck.vmm import Vm

Watch = Callable[[int], None]


class RamFile(NamedTuple):
    """A block that is saved, and the file that it goes to.

    Attributes:
        fd: of the file, open for reading and writing; as long as the block.
        of_vm: the block is RAM of a running VM.
    """

    found: Found
    block: Block
    file: str
    fd: int
    of_vm: bool


class Copying:
    """Copies blocks to their files.

    Attributes:
        files: the blocks in order.
        results: what the last pass found, by block.
        last_pass_s: how long that took, in seconds.
    """

    def __init__(
        self, where: str, scanner: Coordinator, files: Sequence[RamFile], max_rate: int | None
    ) -> None:
        """Nothing is copied yet.

        Args:
            where: the snapshot, as messages name it.
            max_rate: bytes per second that may be read.
        """
        self.files = tuple(files)
        self.results: list[ScanResult] = []
        self.last_pass_s = 0.0
        self._where = where
        self._scanner = scanner
        self._max_rate = max_rate
        self._known_zero: list[memoryview] = []  # pages that are holes of the files

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return sum(each.block.ram.size for each in self.files)

    def copy_ahead(self, watch: Watch) -> None:
        """Copies what the running VM has now; `copy` brings it up to date. May be called again,
        for what changed since.

        Args:
            watch: called with the bytes done.

        Raises:
            OutputError: it cannot be written.
        """
        results = self._pass(None, watch)
        for each, result in zip(self.files, results, strict=False):
            self._require_written(each, result)  # while the VM runs, pages may stay undecided
        found = [result.report.zero for result in results]
        if self._known_zero:
            found = [_both(*pair) for pair in zip(self._known_zero, found, strict=True)]
        self._known_zero = found

    def sync(self) -> None:
        """Has the disk take what was copied until now: in a pause nothing would wait for it then.

        Raises:
            OSError: it does not.
        """
        for each in self.files:
            sync(each.fd)

    def copy(self, seconds: Callable[[], float] | None, watch: Watch) -> None:
        """Brings the files to what the blocks hold now.

        Args:
            seconds: how long that may take from now; None: as long as it does.
            watch: called with the bytes done.

        Raises:
            OutputError: a page cannot be written.
            SourceError: a page cannot be read.
        """
        self.results = self._pass(seconds, watch)
        for each, result in zip(self.files, self.results, strict=False):
            self._require_written(each, result)  # the last one, if any is
            if undecided := result.report.counts.undecided:
                notes = "; ".join(result.notes) or "they could not be read"
                raise SourceError(
                    f"{each.found.source.text}: {undecided} pages of block {each.block.ram.name} "
                    f"are undecided, and nothing is saved without them: {notes}"
                )

    def _pass(self, seconds: Callable[[], float] | None, watch: Watch) -> list[ScanResult]:
        began, done = clock.now_s(), 0
        results = []
        for each in self.files:

            def progress(now: int, _size: int, before: int = done) -> None:
                watch(before + now)

            results.append(
                self._scanner.scan_block(
                    each.block,
                    max_rate=self._max_rate,
                    deadline=None if seconds is None else seconds(),
                    progress=progress,
                )
            )
            done += each.block.ram.size
            if results[-1].write_error is not None:
                break
        self.last_pass_s = clock.now_s() - began
        return results

    def _require_written(self, each: RamFile, result: ScanResult) -> None:
        if result.write_error is not None:
            why = os.strerror(result.write_error)
            raise OutputError(f"{self._where}: {each.file} cannot be written: {why}")

    def finish(self) -> None:
        """Makes holes of what is zero by now; the VM may run."""
        for each, before, result in zip(self.files, self._known_zero, self.results, strict=False):
            ram = each.block.ram
            for first, count in became_zero(before, result.report.zero, ram.pages):
                punch(each.fd, first * ram.page_size, count * ram.page_size)


def became_zero(before: memoryview, after: memoryview, pages: int) -> Iterator[tuple[int, int]]:
    """The runs of pages whose bits are set after and were not before, as (first, count).

    Args:
        before, after: bitmaps of that many pages.
    """
    words = memoryview((_number(after) & ~_number(before)).to_bytes(len(after), "little"))
    at = 0
    while at < pages:
        is_set, end = _native.bits_run(words, pages, at)
        if is_set:
            yield at, end - at
        at = end


def _both(one: memoryview, other: memoryview) -> memoryview:
    """The pages whose bits are set in both bitmaps."""
    return memoryview((_number(one) & _number(other)).to_bytes(len(one), "little"))


def _number(words: memoryview) -> int:
    """The bits as one number: numpy, which starts threads that do not know of signals that are
    held, is not needed for that."""
    return int.from_bytes(words, "little")


def pays_to_copy_ahead(
    vm: Vm, fds: Sequence[int], blocks: Sequence[Found], max_rate: int | None
) -> bool:
    """Whether a copy before the pause makes it shorter: to compare with what is in memory takes
    half the time that it takes to write it anew, and nothing waits for the first copy.

    Args:
        fds: of the RAM files.
        max_rate: bytes per second that may be read.
    """
    if max_rate is not None:
        return False  # that is how long a pass takes, whatever it writes
    if not all(_native.file_system_magic(fd) in (TMPFS, *DISK) for fd in fds):
        return False  # what was written may have to be fetched
    return not vm.is_stopped() and fits_in_memory(each.source.allocated for each in blocks)


def normal_bytes(
    scanner: Coordinator, blocks: Sequence[Found], page_size: int, max_rate: int | None = None
) -> int:
    """How much of the blocks is not zero at this moment, undecided pages included.

    Args:
        max_rate: bytes per second that may be read.
    """
    total = 0
    for found in blocks:
        source = found.source.duplicate()
        block = scanner.attach(
            source,
            page_size=page_size,
            offset=found.ram.start,
            length=found.ram.size,
            access="auto" if scanner.engine == "dsa" else "read",
        )
        try:
            counts = scanner.scan_block(block, max_rate=max_rate).report.counts
        finally:
            scanner.detach(block)
        total += (counts.pages - counts.zero) * page_size
    return total
