"""One scan of one block or more, from the pause of their VM to the report.

Danger: a VM that stays stopped; an answer that is believed although its VM ran on, or although its
RAM had not arrived. Decision: the VM is continued, whatever the scan ended with, before anything is
made of what was found; the first error is what everything ends with; an answer is exact only where
whoever stopped the VM says that it did not run meanwhile; last of all the VM is asked whether its
RAM had arrived, and where that is in doubt every page is undecided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from pagecheck import clock
from pagecheck.coordinator.counting import summed
from pagecheck.coordinator.settings import check_deadline
from pagecheck.errors import PagecheckError, SourceError
from pagecheck.logs import Log
from pagecheck.report.report import Report, forgotten
from pagecheck.shm.rest import EVIDENT

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import NamedTuple, Protocol

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.scan import Progress, ScanResult
    from pagecheck.coordinator.select import Selection
    from pagecheck.model import AnswerKind, Kind, Pause, Region
    from pagecheck.shm.bitmaps import BlockBitmaps
else:
    from pagecheck.typed import NamedTuple, Protocol

log = Log(__name__)


class Pauser(Protocol):
    """Whatever can stop a VM and continue it.

    Attributes:
        text: the VM, as the user named it.
    """

    text: str

    def pause(self, max_seconds: float) -> None:
        """Stops the VM if it is running; after that time it is continued, whatever happens here."""

    def resume(self, *, leave_stopped: bool = False) -> Pause:
        """Continues the VM if it was stopped by `pause`, and says what the pause was.

        Args:
            leave_stopped: if its RAM did not change until now, it stays stopped.
        """

    def why_moved(self) -> str | None:
        """Why RAM may have changed in the last pause, where no VMM says so; or None."""


class RunningVm(Protocol):
    """The running VM behind a block."""

    def doubt(self) -> str | None:
        """Why pages that were called zero until now may not have arrived, or None."""

    def changes(self) -> list[str]:
        """A line for every memory device that came, went or changed since the VM was opened."""


class Scanner(Protocol):
    """What a scan needs of a coordinator; `Coordinator` says what each of it is."""

    @property
    def engine(self) -> str:
        """What decides the pages."""

    @property
    def kernel(self) -> str | None:
        """The CPU kernel."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    def scan_block(
        self,
        block: Block,
        *,
        kind: Kind,
        max_rate: int | None,
        deadline: float | None,
        progress: Progress | None,
        bitmaps: BlockBitmaps | None,
        selection: Selection | None,
    ) -> ScanResult:
        """Decides the pages of one block."""


class Part(NamedTuple):
    """One block that is to be scanned.

    Attributes:
        vm: the running VM whose RAM it is; None for a file.
        regions: what the report says of its place in guest-physical memory.
        bitmaps: where the answers go, all bits 0; by default new ones.
    """

    block: Block
    vm: RunningVm | None = None
    regions: tuple[Region, ...] = ()
    bitmaps: BlockBitmaps | None = None


class Request(NamedTuple):
    """How the parts are scanned.

    Attributes:
        source: what they are, as the user named it.
        max_rate: bytes per second that may be read.
        deadline: seconds from `started` for all parts together.
        max_pause: seconds; then a VM that is paused runs on.
        leave_stopped: a VM that was paused stays so once every part was scanned.
        selection: the pages that are looked at, of the only part; by default all.
        started: `clock.now_s` when the caller began; None: now.
    """

    source: str
    kind: Kind = "full"
    max_rate: int | None = None
    deadline: float | None = None
    max_pause: float = 0.0
    leave_stopped: bool = False
    selection: Selection | None = None
    started: float | None = None


def run_scan(
    scanner: Scanner,
    parts: Sequence[Part],
    request: Request,
    pauser: Pauser | None = None,
    progress: Progress | None = None,
) -> Report:
    """Scans the parts, one after the other.

    Args:
        parts: at least one; all have the same page size.
        pauser: what stops the VM meanwhile; None: nothing does.
        progress: called about ten times a second with (bytes done, bytes in all), of all parts.

    Raises:
        UsageError: an argument is out of range, or a diff whose holes cannot be known.
        SourceError: a page of a diff is part hole, part data; the VM cannot be paused, or ran on
            although it was to be left stopped.
        EngineError: no channel is left.
    """
    check_deadline(request.deadline)
    ready = clock.now_s()
    started = ready if request.started is None else request.started
    hold = None if pauser is None else _Hold(pauser, request)
    with hold or contextlib.nullcontext():
        results = _scan_parts(scanner, parts, request, started, progress)
    report = _report(scanner, parts, request, results, hold, started, ready)
    given = [part.bitmaps for part in parts if part.bitmaps is not None]
    return asked_again(report, distinct_vms(parts), given)


def doubt(vms: Iterable[RunningVm]) -> str | None:
    """Why RAM of these VMs may not have arrived, or None."""
    return next((why for vm in vms if (why := vm.doubt()) is not None), None)


def distinct_vms(parts: Iterable[Part]) -> list[RunningVm]:
    """The VMs behind the parts, each once."""
    return list({id(part.vm): part.vm for part in parts if part.vm is not None}.values())


def _scan_parts(
    scanner: Scanner,
    parts: Sequence[Part],
    request: Request,
    started: float,
    progress: Progress | None,
) -> list[ScanResult]:
    total = sum(part.block.ram.size for part in parts)
    done = 0
    results: list[ScanResult] = []

    def watch(bytes_done: int, _size: int) -> None:
        if progress is not None:
            progress(done + bytes_done, total)

    for part in parts:
        used = clock.now_s() - started
        left = None if request.deadline is None else max(request.deadline - used, 1e-9)
        results.append(
            scanner.scan_block(
                part.block,
                kind=request.kind,
                max_rate=request.max_rate,
                deadline=left,
                progress=watch,
                bitmaps=part.bitmaps,
                selection=request.selection,
            )
        )
        done += part.block.ram.size
    return results


class _Hold:
    """The VM, stopped while the block of code runs.

    Attributes:
        pause: what the pause was; None before the end, and where that failed.
        ended: why the VM ran on before the end; None where it did not.
    """

    def __init__(self, pauser: Pauser, request: Request) -> None:
        self.pause: Pause | None = None
        self.ended: str | None = None
        self._pauser = pauser
        self._request = request

    def __enter__(self) -> None:
        self._pauser.pause(self._request.max_pause)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        leave = self._request.leave_stopped and error is None
        try:
            self.pause = self._pauser.resume(leave_stopped=leave)
        except PagecheckError as trouble:
            if error is None:
                raise
            log.warning("%s", trouble)  # what came first is what everything ends with
            return
        if self.pause.stood_still:
            return
        moved = self._pauser.why_moved()
        why = moved or self._why(self.pause)
        self.ended = moved or f"{why}, and ran on before the end"
        if leave:
            raise SourceError(
                f"{self._pauser.text}: {why}; it is not left stopped as it was asked for"
            )

    def _why(self, pause: Pause) -> str:
        if pause.expired:
            most = self._request.max_pause
            return f"the VM was paused for {most:g} s, the most that was allowed"
        return "the VM was continued or reset by somebody else"


def _report(
    scanner: Scanner,
    parts: Sequence[Part],
    request: Request,
    results: Sequence[ScanResult],
    hold: _Hold | None,
    started: float,
    ready: float,
) -> Report:
    """What was found, and what it is worth."""
    why_live, notes = _why_live(results)
    answer: AnswerKind = "at-rest" if why_live is None else "live"
    if hold is not None and hold.pause is not None and hold.pause.stood_still:
        answer, why_live, notes = "paused", None, ()
    elif hold is not None:
        answer, why_live = "live", hold.ended
        notes = (*notes, f"{hold.ended}: the answer is a hint")
    return Report(
        source=request.source,
        answer=answer,
        engine=scanner.engine,
        kernel=scanner.kernel,
        channels=scanner.channels,
        page_size=parts[0].block.ram.page_size,
        seconds=clock.now_s() - started,
        startup_seconds=ready - started,
        bytes_checked=sum(result.bytes_checked for result in results),
        blocks=tuple(
            result.report._replace(regions=part.regions)
            for part, result in zip(parts, results, strict=True)
        ),
        notes=(*(note for result in results for note in result.notes), *notes),
        workers=summed([result.workers for result in results]),
        pause=None if hold is None else hold.pause,
        why_live=why_live,
    )


def _why_live(results: Sequence[ScanResult]) -> tuple[str | None, tuple[str, ...]]:
    """Why an answer is no more than a hint.

    Returns:
        The reason, None where there is none, and notes on what is not so with every running VM.
    """
    blocks: dict[str, list[str]] = {}
    for result in results:
        if result.why_live is not None:
            blocks.setdefault(result.why_live, []).append(result.report.block.name)
    reasons = {why: f"{', '.join(names)}: {why}" for why, names in blocks.items()}
    notes = tuple(
        f"{text}: the answer is a hint" for why, text in reasons.items() if why not in EVIDENT
    )
    return "; ".join(reasons.values()) or None, notes


def asked_again(
    report: Report, vms: Sequence[RunningVm], bitmaps: Iterable[BlockBitmaps] = ()
) -> Report:
    """The report with what the VMs say at the end: what changed, and whether RAM had arrived.

    Args:
        bitmaps: what others see of the answers; where RAM is in doubt they are cleared as well.
    """
    report = report.noting(*(line for vm in vms for line in vm.changes()))
    if (why := doubt(vms)) is None:
        return report
    for each in bitmaps:
        each.forget_from(0)
    report = report.with_blocks(tuple(map(forgotten, report.blocks)))
    return report.noting(f"{why}: every page is undecided")
