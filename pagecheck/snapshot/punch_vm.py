"""Zero pages of a VM's shared RAM, made holes while it is stopped; `punch.py` has the reasons."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck import clock
from pagecheck.coordinator import Coordinator
from pagecheck.coordinator.settings import default_channels
from pagecheck.errors import PagecheckError, SourceError, UsageError
from pagecheck.native import _native
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import RamSource
from pagecheck.snapshot.in_use import mappers_of
from pagecheck.snapshot.punch_file import (
    not_punched,
    reopened,
    require_unsealed,
    tested_kernel,
    unit_of,
)
from pagecheck.snapshot.punch_report import PunchedBlock, PunchReport

if TYPE_CHECKING:
    from pagecheck.model import Pause
    from pagecheck.report.report import BlockReport
    from pagecheck.snapshot.punch_file import Progress
    from pagecheck.vmm import Vm
    from pagecheck.vmm.ram import GuestRam

REQUEST_BYTES: Final = 16 << 20  # the watchdog does nothing else meanwhile: some milliseconds
DISK_REQUEST_BYTES: Final = 2 << 20  # where a page may have to be read from a disk first
REQUEST_RANGES: Final = 500  # what fits into one message
GAP_PAGES: Final = 16  # so many normal pages between zero ones are looked at with them
USED_SHARE: Final = 0.9  # of the longest pause; the rest is for the last request and the end

_CONTINUED: Final = "the VM was continued or reset by somebody else"

Ranges = list[tuple[int, int]]


class Part(NamedTuple):
    """One RAM block that is punched.

    Attributes:
        source: its file, open for reading and writing.
        found: the same as it was found, for workers: whoever has the RAM open for writing is taken
            for a writer by the next punch.
        start: byte offset of the block in it.
        size: bytes.
    """

    source: RamSource
    found: RamSource
    start: int
    size: int
    unit: int


class Wanted(NamedTuple):
    """How it is punched; `punch` documents each.

    Attributes:
        start: what a coordinator is started with.
    """

    page_size: int
    dry_run: bool
    max_pause: float
    max_rate: int | None
    progress: Progress | None
    start: dict[str, Any]
    coordinator: Coordinator | None


def punch_vm(vm: Vm, wanted: Wanted) -> PunchReport:
    """Punches the shared RAM of a VM.

    Raises:
        SourceError: it has no shared RAM, something else may write to it, or a hole failed.
        UsageError: it cannot be paused from here.
        PagecheckError: the VM cannot be paused or continued.
    """
    started = clock.now_s()
    if not vm.can_pause:
        raise UsageError(
            f"{vm.text}: nothing there stops the VM while it is punched; give qmp:SOCKET, "
            "ch:SOCKET or crosvm:SOCKET ('pagecheck vms' lists them)"
        )
    with contextlib.ExitStack() as stack:
        parts, notes = _parts(stack, vm, wanted.page_size)
        if os.geteuid() != 0:
            notes.append(
                "only your own processes could be inspected for whether they write to the RAM"
            )
        _refuse_other_writers(vm, parts)
        work = VmPunch(vm, parts, wanted)
        found = work.candidates()
        blocks, why = (work.dry(), None) if wanted.dry_run else work.run(found)
    return PunchReport(
        vm.text,
        "pause",
        wanted.dry_run,
        clock.now_s() - started,
        tuple(blocks),
        why,
        work.pause,
        tuple(notes),
    )


def _parts(stack: contextlib.ExitStack, vm: Vm, page_size: int) -> tuple[list[Part], list[str]]:
    """Its shared blocks, open for writing, and notes on what is left out.

    Raises:
        SourceError: there are none, or one may not be written.
    """
    parts: list[Part] = []
    left: list[str] = []
    for ram in vm.rams:
        if isinstance(ram.source, RamSource):
            parts.append(_part(stack, vm.text, ram, ram.source, page_size))
        else:
            left.append(
                f"{vm.text}:{ram.source.name}: is private to its VMM: no other process can make "
                "holes there; start the VM with shared RAM, or a balloon with free page reporting"
            )
    left += [each.why for each in vm.unreadable]
    if not parts:
        raise SourceError(left[0])
    return parts, [*vm.notes, *(line for line in left if line not in vm.notes)]


def _part(
    stack: contextlib.ExitStack, text: str, ram: GuestRam, source: RamSource, page_size: int
) -> Part:
    name = f"{text}:{source.name}"
    require_unsealed(name, source.fd)
    opened = RamSource(name, source.name, reopened(name, source.fd))
    stack.callback(opened.close)
    unit = unit_of(opened.fd, page_size)
    if ram.start % unit or ram.size % unit:
        raise UsageError(f"{name}: is not in whole units of {unit} bytes; give a smaller page size")
    return Part(opened, source, ram.start, ram.size, unit)


def _refuse_other_writers(vm: Vm, parts: Iterable[Part]) -> None:
    """Raises SourceError where something may write to the RAM although the VM is stopped."""
    why = vm.other_writer()
    for part in parts:
        why = why or mappers_of(part.source.fd, vm.pid)
    if why:
        raise SourceError(
            f"{vm.text}: {why}, and may write to its RAM although the VM is stopped; unplug or end "
            "that first"
        )


class VmPunch:
    """The work on one VM.

    Attributes:
        pause: what the pause was; None before the end.
    """

    def __init__(self, vm: Vm, parts: Sequence[Part], wanted: Wanted) -> None:
        """Nothing is done yet."""
        self._vm = vm
        self._parts = parts
        self._wanted = wanted
        self._kernel = tested_kernel()
        self._size = sum(part.size for part in parts)
        self._done = 0
        self._zero: list[int] = []  # of each block, as the scan found it
        self.pause: Pause | None = None

    def candidates(self) -> list[Ranges]:
        """Where zero pages are, while the guest runs; for each block ranges of its file."""
        wanted = self._wanted
        with contextlib.ExitStack() as stack:
            scanner = wanted.coordinator or stack.enter_context(self._coordinator())
            found = []
            for part in self._parts:
                copy = RamSource(
                    part.source.text,
                    part.source.name,
                    os.dup(part.found.fd),
                    own_description=part.found.own_description,
                )
                block = scanner.attach(
                    copy,
                    page_size=part.unit,
                    offset=part.start,
                    length=part.size,
                    access="auto" if scanner.engine == "dsa" else "read",
                )
                stack.callback(scanner.detach, block)
                report = scanner.scan(block, max_rate=wanted.max_rate, progress=self._watch)
                self._done += part.size
                counts = report.total
                self._zero.append((counts.zero - counts.hole) * part.unit)
                found.append(list(_with_data(part, zero_runs(report.blocks[0], part))))
            return found

    def _coordinator(self) -> Coordinator:
        start = dict(self._wanted.start)
        if start["channels"] is None and not start["wq"]:
            start["channels"] = default_channels(
                sum(min(part.size, part.source.allocated) for part in self._parts)
            )
        return Coordinator(**start)

    def _watch(self, done: int, _total: int = 0) -> None:
        if self._wanted.progress is not None:
            self._wanted.progress(self._done + done, 2 * self._size)

    def dry(self) -> list[PunchedBlock]:
        """What would be done."""
        blocks = []
        for part, zero in zip(self._parts, self._zero, strict=True):
            now = part.source.allocated
            blocks.append(PunchedBlock(part.source.name, part.size, part.unit, zero, now, now))
        return blocks

    def run(self, found: Sequence[Ranges]) -> tuple[list[PunchedBlock], str | None]:
        """Stops the VM and punches; it runs again when this ends.

        Returns:
            The blocks, and why part of them was left.
        """
        wanted, vm = self._wanted, self._vm
        until = clock.now_s() + USED_SHARE * wanted.max_pause
        vm.pause(wanted.max_pause)
        try:
            if (why := vm.doubt()) is not None:
                raise SourceError(f"{why}; nothing was punched")
            _refuse_other_writers(vm, self._parts)  # once more: one may have come meanwhile
            blocks, left = self._punch(found, until)
        except BaseException:
            with contextlib.suppress(PagecheckError):  # what came first is what this ends with
                vm.resume()
            raise
        self.pause = vm.resume()
        if left is None and not self.pause.stood_still:
            left = vm.why_moved() or (self._too_long() if self.pause.expired else _CONTINUED)
        return blocks, left

    def _too_long(self) -> str:
        return f"the VM was to be stopped for {self._wanted.max_pause:g} s at most; run it again"

    def _punch(
        self, found: Sequence[Ranges], until: float
    ) -> tuple[list[PunchedBlock], str | None]:
        blocks: list[PunchedBlock] = []
        why: str | None = None
        for part, ranges in zip(self._parts, found, strict=True):
            before, zero = part.source.allocated, 0
            most = REQUEST_BYTES if part.source.is_shared_memory else DISK_REQUEST_BYTES
            for request in requests(ranges, max(most, part.unit)):
                if why is None and clock.now_s() > until:
                    why = self._too_long()
                if why is not None:
                    break
                done = self._vm.punch(part.source.fd, part.unit, self._kernel, request)
                zero += done.zero_bytes
                if done.errno:
                    error = OSError(done.errno, os.strerror(done.errno))
                    raise not_punched(part.source.text, error, zero)
                if not done.still:
                    why = _CONTINUED
                self._watch(request[-1][1] - part.start)
            self._done += part.size
            after = part.source.allocated
            blocks.append(PunchedBlock(part.source.name, part.size, part.unit, zero, before, after))
        return blocks, why


def zero_runs(report: BlockReport, part: Part) -> Iterator[tuple[int, int]]:
    """Runs of zero pages, near ones together, as bytes of the file."""
    pages = report.block.pages
    pending: tuple[int, int] | None = None
    at = 0
    while at < pages:
        is_zero, end = _native.bits_run(report.zero, pages, at)
        if is_zero:
            if pending is not None and at - pending[1] <= GAP_PAGES:
                pending = (pending[0], end)
            else:
                if pending is not None:
                    yield part.start + pending[0] * part.unit, part.start + pending[1] * part.unit
                pending = (at, end)
        at = end
    if pending is not None:
        yield part.start + pending[0] * part.unit, part.start + pending[1] * part.unit


def _with_data(part: Part, runs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of the runs has data, in whole units."""
    first, last = part.start, part.start + part.size
    data: Iterable[tuple[int, int]] = [(first, last)]
    if part.source.holes_are_proof:
        data = by_seeking(part.source.fd, first, last)
    return overlaps(data, runs, part.unit)


def overlaps(
    data: Iterable[tuple[int, int]], runs: Iterator[tuple[int, int]], unit: int
) -> Iterator[tuple[int, int]]:
    """The units of the runs that have some data.

    Args:
        data, runs: (begin, end) in bytes, ascending; runs are of whole units.

    Yields:
        (begin, end), ascending, none twice.
    """
    run = next(runs, None)
    done = 0
    for begin, end in data:
        begin, end = max(begin - begin % unit, done), end + -end % unit
        while run is not None and run[0] < end:
            low, high = max(begin, run[0], done), min(end, run[1])
            if low < high:
                yield low, high
                done = high
            if run[1] > end:
                break
            run = next(runs, None)


def requests(ranges: Ranges, most: int) -> Iterator[Ranges]:
    """Cuts ranges into what is done at once, of at most so many bytes, where huge pages begin."""
    request: Ranges = []
    size = 0
    for start, end in ranges:
        while start < end:
            last = min((start // most + 1) * most, end)
            if request and (size + last - start > most or len(request) == REQUEST_RANGES):
                yield request
                request, size = [], 0
            request.append((start, last))
            size += last - start
            start = last
    if request:
        yield request
