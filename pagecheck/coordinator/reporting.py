"""From what scans found to the report that callers get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pagecheck import clock
from pagecheck.coordinator.scan import ScanResult
from pagecheck.report.report import Report
from pagecheck.shm.rest import EVIDENT

if TYPE_CHECKING:
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.model import AnswerKind
    from pagecheck.report.statistics import ChannelReport


def make_report(
    coordinator: Coordinator,
    source: str,
    results: Sequence[ScanResult],
    started: float,
    ready: float | None = None,
    *,
    stood_still: bool = False,
) -> Report:
    """The report on one or more blocks of a source, which all have the same page size.

    Args:
        source: as the user named it.
        started: `clock.now_s` when the caller began.
        ready: the same when the first batch could be given out; None: at once.
        stood_still: the VM was stopped meanwhile, which the caller tells.
    """
    why_live, doubts = (None, ()) if stood_still else why_hint(results)
    return Report(
        source=source,
        answer=weakest(result.answer for result in results),
        engine=coordinator.engine,
        kernel=coordinator.kernel,
        channels=coordinator.channels,
        page_size=results[0].report.block.page_size,
        seconds=clock.now_s() - started,
        startup_seconds=0.0 if ready is None else ready - started,
        bytes_checked=sum(result.bytes_checked for result in results),
        blocks=tuple(result.report for result in results),
        notes=(*(note for result in results for note in result.notes), *doubts),
        workers=summed([result.workers for result in results]),
        why_live=why_live,
    )


def why_hint(results: Sequence[ScanResult]) -> tuple[str | None, tuple[str, ...]]:
    """Why an answer is no more than a hint.

    Returns:
        The reason, None where there is none, and notes on what is not so with every running VM.
    """
    blocks: dict[str, list[str]] = {}
    for result in results:
        if result.why_live is not None:
            blocks.setdefault(result.why_live, []).append(result.report.block.name)
    told = {why: f"{', '.join(names)}: {why}" for why, names in blocks.items()}
    notes = tuple(
        f"{text}: the answer is a hint" for why, text in told.items() if why not in EVIDENT
    )
    return "; ".join(told.values()) or None, notes


def weakest(answers: Iterable[AnswerKind]) -> AnswerKind:
    """What may be said of all blocks together."""
    given = set(answers)
    if "live" in given or not given:
        return "live"
    return "at-rest" if given == {"at-rest"} else "paused"


def summed(scans: Sequence[tuple[ChannelReport, ...]]) -> tuple[ChannelReport, ...]:
    """What each channel counted over several scans; the last one tells what it works with."""
    return tuple(
        same[-1]._replace(words=tuple(map(sum, zip(*(one.words for one in same), strict=True))))
        for same in zip(*scans, strict=True)
    )
