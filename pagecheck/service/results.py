"""One `check` command: the blocks scanned, their bitmaps in one sealed memfd."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pagecheck import clock
from pagecheck.coordinator.reporting import weakest, why_hint
from pagecheck.coordinator.select import Bitmap, Ranges, Selection
from pagecheck.errors import SourceError, UsageError
from pagecheck.model import Counts
from pagecheck.shm.bitmaps import BlockBitmaps, bitmap_bytes
from pagecheck.shm.ram import adopt

if TYPE_CHECKING:
    from pagecheck.coordinator.scan import ScanResult
    from pagecheck.service.resources import HeldBlock
    from pagecheck.service.service import Service
    from pagecheck.vmm import Vm
    from pagecheck.vmm.stopped import Stopped


@dataclass
class Check:
    """What is to be checked, as the client asked; `run` does it.

    Attributes:
        held: the blocks, in the order of the answer.
        ranges: pages of the only block, or None.
        bitmap: a descriptor whose bits select pages of the only block, or None; the caller's.
        deadline: seconds for all blocks together.
        pause: stop the VM meanwhile, for at most `max_pause` seconds.
        leave_stopped: it stays stopped, if the check ends well.
        progress: called now and then with (bytes done, bytes in all); raises where nobody wants
            the answer any more.
        client: whom the answer's memory counts for.
    """

    held: list[HeldBlock]
    ranges: list[tuple[int, int]] | None
    bitmap: int | None
    kind: Any
    max_rate: int | None
    deadline: float | None
    pause: bool
    max_pause: float | None
    leave_stopped: bool
    progress: Callable[[int, int], None]
    client: object = None
    _until: float | None = None

    def run(self, service: Service) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Scans.

        Returns:
            The members of the answer, and the memfd, which is the caller's.

        Raises:
            PagecheckError: the subclass says whose fault it is.
        """
        with contextlib.ExitStack() as stack:
            selection = self._selection(stack)
            vm = self._vm()
            if (why := self._doubt()) is not None:
                raise SourceError(why)
            sizes = [bitmap_bytes(held.block.ram.pages) for held in self.held]
            memory = service.answers.allocate(self.client, "pagecheck-bitmaps", sum(sizes))
            stack.callback(memory.close)
            started = clock.now_s()
            self._until = None if self.deadline is None else started + self.deadline
            results: list[ScanResult] = []
            at = 0
            written: list[BlockBitmaps] = []
            with self._paused(service, vm) as stopped:
                for held, size in zip(self.held, sizes, strict=True):
                    written.append(BlockBitmaps(memory, held.block.ram.pages, at))
                    results.append(self._scan(service, held, written[-1], selection))
                    at += size
            if (why := self._doubt()) is not None:
                results = [_forgotten(*each, why) for each in zip(results, written, strict=True)]
            memory.seal(read_only=True)
            seconds = clock.now_s() - started
            members = self._members(service, results, stopped, seconds)
            service.counters.add("checks")
            holes = sum(result.report.counts.hole for result in results)
            service.counters.add("holes", holes)
            fd, memory.fd = memory.fd, -1
            return members, (fd,)

    def _selection(self, stack: contextlib.ExitStack) -> Selection | None:
        if self.ranges is None and self.bitmap is None:
            return None
        if len(self.held) > 1 or (self.ranges is not None and self.bitmap is not None):
            raise UsageError("ranges, bitmap: select pages of one block, in one of the two ways")
        if self.kind != "full" or self.max_rate is not None:
            raise UsageError("kind, max_rate: go with a check of all pages only")
        pages = self.held[0].block.ram.pages
        if self.ranges is not None:
            return Ranges(self.ranges, pages)
        assert self.bitmap is not None
        source = adopt(self.bitmap, "bitmap", "bitmap")
        stack.callback(source.close)
        return Bitmap(source.fd, pages)

    def _vm(self) -> Vm | None:
        vm = self.held[0].vm
        if self.pause and (vm is None or any(held.vm is not vm for held in self.held)):
            raise UsageError("pause: only blocks of one VM that was attached as qmp:SOCKET")
        if self.leave_stopped and not self.pause:
            raise UsageError("leave_stopped: goes with pause")
        return vm

    def _vms(self) -> list[Vm]:
        """The VMs behind the blocks."""
        return list({id(held.vm): held.vm for held in self.held if held.vm is not None}.values())

    def _doubt(self) -> str | None:
        """Why RAM of the VMs behind the blocks may not have arrived, or None."""
        return next((why for vm in self._vms() if (why := vm.doubt()) is not None), None)

    @contextlib.contextmanager
    def _paused(self, service: Service, vm: Vm | None) -> Iterator[Stopped | None]:
        """The VM stopped, if that was asked for."""
        if vm is None or not self.pause:
            yield None
            return
        from pagecheck.vmm.stopped import Stopped

        most = self.max_pause or service.limits.pause_seconds
        stopped = Stopped(vm, most, leave=self.leave_stopped)
        try:
            with stopped:
                yield stopped
        finally:
            if stopped.pause is not None:
                service.counters.add("pause_seconds", stopped.pause.seconds)
                service.counters.add("pauses", stopped.pause.stopped_by_us)

    def _scan(
        self,
        service: Service,
        held: HeldBlock,
        bitmaps: BlockBitmaps,
        selection: Selection | None,
    ) -> ScanResult:
        return service.coordinator.scan_block(
            held.block,
            kind=self.kind,
            max_rate=self.max_rate,
            deadline=None if self._until is None else max(self._until - clock.now_s(), 1e-9),
            progress=self.progress,
            bitmaps=bitmaps,
            selection=selection,
        )

    def _members(
        self, service: Service, results: list[ScanResult], stopped: Stopped | None, seconds: float
    ) -> dict[str, Any]:
        answer = weakest(result.answer for result in results)
        notes = [note for result in results for note in result.notes]
        why_live, doubts = why_hint(results)
        pause = None if stopped is None else stopped.pause
        if stopped is not None:
            answer = "paused" if stopped.hint is None else "live"
        if stopped is not None and stopped.hint is not None:
            notes.append(stopped.hint)
        notes += [line for vm in self._vms() for line in vm.changes()]
        if answer == "paused":
            why_live, doubts = None, ()
        blocks: list[dict[str, Any]] = []
        at = 0
        for held, result in zip(self.held, results, strict=True):
            words = bitmap_bytes(held.block.ram.pages) // 3
            third = "unchanged" if self.kind == "diff" else "hole"
            places = {
                name: {"offset": at + index * words, "bytes": words}
                for index, name in enumerate(("zero", "normal", third))
            }
            if self.ranges is not None or self.bitmap is not None:
                del places[third]
            blocks.append(
                {
                    "block": held.number,
                    "name": held.block.ram.name,
                    "size": held.block.ram.size,
                    "page_size": held.block.ram.page_size,
                    "counts": result.report.counts._asdict(),
                    "bitmaps": places,
                }
            )
            at += 3 * words
        return {
            "answer": answer,
            "engine": service.coordinator.engine,
            "kernel": service.coordinator.kernel,
            "channels": service.coordinator.channels,
            "seconds": round(seconds, 6),
            "bytes_checked": sum(result.bytes_checked for result in results),
            "blocks": blocks,
            "notes": [*notes, *doubts],
            "why_live": why_live,
            "pause": None if pause is None else pause._asdict(),
        }


def _forgotten(result: ScanResult, bitmaps: BlockBitmaps, why: str) -> ScanResult:
    """The result of a block that may not have arrived: every page is undecided."""
    bitmaps.forget_from(0)
    pages = result.report.counts.pages
    report = replace(result.report, counts=Counts(pages=pages, undecided=pages))
    return result._replace(report=report, notes=(*result.notes, f"{why}: undecided"))
