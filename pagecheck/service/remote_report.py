"""The report of a scan that a service did."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pagecheck.report.report import Report, undecided_block

if TYPE_CHECKING:
    from pagecheck.model import Kind
    from pagecheck.report.bitmap_files import Output
    from pagecheck.service.replies import Attached, Checked

StrPath = str | os.PathLike[str]


def output_for(out: StrPath, source: StrPath, blocks: Attached, kind: Kind) -> Output:
    """The folder that the bitmaps of these blocks are written to."""
    from pagecheck.report.bitmap_files import Output

    names = [each.ram.name for each in (*blocks, *blocks.unreadable)]
    return Output(out, names, kind, [os.fspath(source)])


def as_report(
    source: StrPath,
    blocks: Attached,
    found: Checked,
    page_size: int,
    times: tuple[float, float],
    *,
    gpa: bool,
) -> Report:
    """What a check found, as `pagecheck.scan` would report it.

    Args:
        times: seconds of the whole scan, and of its start.
        gpa: with guest-physical addresses.
    """
    unreadable = [undecided_block(each.ram, each.regions) for each in blocks.unreadable]
    seconds, startup_seconds = times
    report = Report(
        source=os.fspath(source),
        answer=found.answer,
        engine=found.raw["engine"],
        kernel=found.raw["kernel"],
        channels=found.raw["channels"],
        page_size=page_size,
        seconds=seconds,
        startup_seconds=startup_seconds,
        bytes_checked=found.raw["bytes_checked"],
        blocks=found.blocks,
        notes=found.notes,
        pause=found.pause,
        why_live=found.raw.get("why_live"),
    ).with_vm(blocks.notes, unreadable)
    if gpa:
        return report
    return report.with_blocks(tuple(each._replace(regions=()) for each in report.blocks))
