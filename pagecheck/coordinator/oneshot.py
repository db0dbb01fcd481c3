"""`pagecheck.scan`: one source, once, with everything that it needs started and ended."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from pagecheck.coordinator.coordinator import Coordinator
from pagecheck.coordinator.limits import Engine, default_channels
from pagecheck.errors import StartTimeout, UsageError
from pagecheck.model import Counts
from pagecheck.plan import make_block
from pagecheck.shm.ram import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.coordinator.scanwork import Progress
    from pagecheck.model import Access, Holes, Kind, RamBlock
    from pagecheck.report import Report

START_S: Final = 30.0


def scan(
    source: str | os.PathLike[str],
    *,
    engine: Engine = "auto",
    wq: Sequence[str] = (),
    fallback: bool = False,
    kernel: str | None = None,
    channels: int | None = None,
    page_size: int = 4096,
    batch_pages: int | None = None,
    offset: int = 0,
    length: int | None = None,
    kind: Kind = "full",
    holes: Holes = "trust",
    nice: int = 0,
    max_rate: int | None = None,
    deadline: float | None = None,
    stall: float = 30.0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Decides every page of a RAM snapshot or of guest RAM.

    Args:
        source: a path, `fd:N` (inherited) or `shm:/name`.
        channels: workers; by default one per work queue in `wq`, else the smallest of the usable
            CPUs, one per 256 MiB of data, and 16.
        deadline: seconds for everything, start-up included; pages not answered by then are
            undecided.
        out: a folder for the bitmap files and `report.json`; the report then names the files. The
            folder is made, and proved to be writable, before the scan.

    The other arguments are those of `Coordinator`, `Coordinator.attach` and `Coordinator.scan`.

    Returns:
        The report; nothing else is left of the scan.

    Raises:
        PagecheckError: the subclass says whose fault it is.
    """
    started = time.monotonic()
    if deadline is not None and not deadline > 0:
        raise UsageError(f"deadline {deadline}: must be more than 0 seconds")
    ram = open_source(source)
    try:
        block = make_block(ram.name, ram.size, page_size, offset, length)
        if out is not None:
            from pagecheck.bitmap_files import prepare

            prepare(out, ram.name, f"/proc/self/fd/{ram.fd}")
        if channels is None and not wq:
            channels = default_channels(min(block.size, ram.allocated))
        coordinator = Coordinator(
            channels,
            engine,
            wq=wq,
            fallback=fallback,
            kernel=kernel,
            batch_pages=batch_pages,
            nice=nice,
            stall=stall,
            start_timeout=START_S if deadline is None else min(deadline, START_S),
        )
    except StartTimeout:
        ram.close()
        if deadline is None or time.monotonic() - started < deadline:
            raise
        asked = "dsa" if engine == "dsa" else "cpu"
        seconds = time.monotonic() - started
        return _nothing_decided(ram.text, block, asked, channels or len(wq), seconds)
    except BaseException:
        ram.close()
        raise
    with coordinator:
        # One pass: for the CPU, reading costs less than mapping, whose pages would each fault once.
        # A device can only look at what is mapped.
        access: Access = "auto" if coordinator.engine == "dsa" else "read"
        attached = coordinator.attach(
            ram, page_size=page_size, offset=offset, length=length, holes=holes, access=access
        )
        from pagecheck.report import Report

        ready = time.monotonic()
        left = None if deadline is None else max(deadline - (ready - started), 1e-9)
        result = coordinator.scan_block(
            attached, kind=kind, max_rate=max_rate, deadline=left, progress=progress
        )
        report = Report(
            source=ram.text,
            answer=result.answer,
            engine=coordinator.engine,
            kernel=coordinator.kernel,
            channels=coordinator.channels,
            page_size=page_size,
            seconds=time.monotonic() - started,
            startup_seconds=ready - started,
            bytes_checked=result.bytes_checked,
            blocks=(result.report,),
            notes=result.notes,
            workers=result.workers,
        )
    if out is None:
        return report
    from pagecheck.bitmap_files import write

    return write(report, out)


def _nothing_decided(
    text: str, block: RamBlock, engine: str, channels: int, seconds: float
) -> Report:
    """The deadline passed while the workers started."""
    from pagecheck.report import BlockReport, Report

    words = memoryview(bytes(-(-block.pages // 64) * 8))
    counts = Counts(pages=block.pages, undecided=block.pages)
    return Report(
        source=text,
        answer="live",
        engine=engine,
        kernel=None,
        channels=channels,
        page_size=block.page_size,
        seconds=seconds,
        startup_seconds=seconds,
        bytes_checked=0,
        blocks=(BlockReport(block, counts, words, words),),
        notes=("the deadline passed before the workers were ready: every page is undecided",),
    )
