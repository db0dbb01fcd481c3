"""One `check` command: the blocks scanned, their bitmaps in one sealed memfd."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pagecheck.coordinator.runner import (
    Part,
    Pauser,
    Request,
    distinct_vms,
    doubt,
    run_scan,
)
from pagecheck.coordinator.select import Bitmap, Ranges, Selection
from pagecheck.errors import SourceError, UsageError
from pagecheck.shm.bitmaps import BlockBitmaps, bitmap_bytes
from pagecheck.shm.ram import adopt

if TYPE_CHECKING:
    from pagecheck.report.report import Report
    from pagecheck.service.resources import HeldBlock
    from pagecheck.service.service import Service


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

    @property
    def selects(self) -> bool:
        """Whether only some pages are checked."""
        return self.ranges is not None or self.bitmap is not None

    def run(self, service: Service) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Scans.

        Returns:
            The members of the answer, and the memfd, which is the caller's.

        Raises:
            PagecheckError: the subclass says whose fault it is.
        """
        with contextlib.ExitStack() as stack:
            selection = self._selection(stack)
            pauser = self._pauser()
            parts = [Part(held.block, held.vm) for held in self.held]
            if (why := doubt(distinct_vms(parts))) is not None:
                raise SourceError(why)
            sizes = [bitmap_bytes(held.block.ram.pages) for held in self.held]
            memory = service.answers.allocate(self.client, "pagecheck-bitmaps", sum(sizes))
            stack.callback(memory.close)
            starts = itertools.accumulate(sizes, initial=0)
            parts = [
                part._replace(bitmaps=BlockBitmaps(memory, part.block.ram.pages, at))
                for part, at in zip(parts, starts, strict=False)
            ]
            report = run_scan(
                service.coordinator, parts, self._request(service, selection), pauser, self.progress
            )
            memory.seal(read_only=True)
            if not self.selects:
                found = (report.blocks, report.bytes_checked, report.seconds)
                service.scanned(self.client, report.source, report.answer, *found)
            service.counters.add("checks")
            service.counters.add("holes", report.total.hole)
            fd, memory.fd = memory.fd, -1
            return self._members(report), (fd,)

    def _request(self, service: Service, selection: Selection | None) -> Request:
        return Request(
            self.held[0].block.source.text,
            self.kind,
            self.max_rate,
            self.deadline,
            self.max_pause or service.limits.pause_seconds,
            self.leave_stopped,
            selection,
        )

    def _selection(self, stack: contextlib.ExitStack) -> Selection | None:
        if not self.selects:
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

    def _pauser(self) -> Pauser | None:
        """What stops the VM, if that was asked for."""
        vm = self.held[0].vm
        if self.pause and (vm is None or any(held.vm is not vm for held in self.held)):
            raise UsageError("pause: only blocks of one VM that was attached by its VMM's socket")
        if self.leave_stopped and not self.pause:
            raise UsageError("leave_stopped: goes with pause")
        return vm if self.pause else None

    def _members(self, report: Report) -> dict[str, Any]:
        """The report as the members of an answer."""
        third = ["unchanged" if self.kind == "diff" else "hole"]
        names = ["zero", "normal", *([] if self.selects else third)]
        blocks: list[dict[str, Any]] = []
        at = 0
        for held, found in zip(self.held, report.blocks, strict=True):
            words = bitmap_bytes(found.block.pages) // 3
            blocks.append(
                {
                    "block": held.number,
                    "name": found.block.name,
                    "size": found.block.size,
                    "page_size": found.block.page_size,
                    "counts": found.counts._asdict(),
                    "bitmaps": {
                        name: {"offset": at + index * words, "bytes": words}
                        for index, name in enumerate(names)
                    },
                }
            )
            at += 3 * words
        return {
            "answer": report.answer,
            "engine": report.engine,
            "kernel": report.kernel,
            "channels": report.channels,
            "seconds": round(report.seconds, 6),
            "bytes_checked": report.bytes_checked,
            "blocks": blocks,
            "notes": list(report.notes),
            "why_live": report.why_live,
            "pause": None if report.pause is None else report.pause._asdict(),
        }
