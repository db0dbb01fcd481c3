"""What a scan or a check found, as callers get it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from pagecheck.model import AnswerKind, Counts, Pause, RamBlock, Region
from pagecheck.report.statistics import ChannelReport, Statistics

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final, NamedTuple

    import numpy as np
    from numpy.typing import NDArray
else:
    from pagecheck.typed import NamedTuple

JSON_VERSION: Final = 1
NO_FILES: Final[Mapping[str, str]] = MappingProxyType({})


class BlockReport(NamedTuple):
    """What a scan found in one block.

    Attributes:
        zero, normal, unchanged: bitmaps as read-only views of uint64 words (bit i % 64 of word
            i / 64 is page i, padding bits 0); `unchanged` is None except for a diff snapshot.
            They stay valid as long as the report lives.
        files: paths of the bitmap files that were written, by `zero`, `normal`, `unchanged`.
        regions: where its parts lie in guest-physical memory; empty where that was not asked for.
        hole: bitmap of the zero pages that were not read, since the file never allocated them; None
            for a diff snapshot, and where it is not known.
    """

    block: RamBlock
    counts: Counts
    zero: memoryview
    normal: memoryview
    unchanged: memoryview | None = None
    files: Mapping[str, str] = NO_FILES
    regions: tuple[Region, ...] = ()
    hole: memoryview | None = None

    def to_json(self) -> dict[str, Any]:
        """This block's entry in the JSON report."""
        return {
            "name": self.block.name,
            "bytes": self.block.size,
            **self.counts._asdict(),
            "files": dict(self.files),
            "regions": [region._asdict() for region in self.regions],
        }


def undecided_block(block: RamBlock, regions: tuple[Region, ...] = ()) -> BlockReport:
    """A block of which nothing is known: its RAM cannot be read, or there was no time."""
    words = memoryview(bytes(-(-block.pages // 64) * 8))
    counts = Counts(pages=block.pages, undecided=block.pages)
    return BlockReport(block, counts, words, words, regions=regions)


def forgotten(block: BlockReport) -> BlockReport:
    """The same block with all results discarded: every page is undecided."""
    pages = block.counts.pages  # fewer than all where some were selected
    words = memoryview(bytes(len(block.zero)))
    return block._replace(
        counts=Counts(pages=pages, undecided=pages),
        zero=words,
        normal=words,
        unchanged=None if block.unchanged is None else words,
        hole=None if block.hole is None else words,
    )


class Report(NamedTuple):
    """The result of a scan.

    Attributes:
        source: what was scanned, as the user named it.
        answer: `at-rest` and `paused` are exact; `live` is a hint, since the RAM may have changed
            meanwhile.
        engine: what decided the pages; `dsa` if any channel had a work queue.
        kernel: the CPU kernel, None for engine `none`.
        channels: workers that took part.
        seconds: whole duration, start-up included.
        startup_seconds: the part before the first batch.
        bytes_checked: pages read, in bytes; holes are not read.
        workers: what each channel worked with and counted during the scan, other work included
            that ran on it meanwhile; empty for engine `none`.
        notes: one line each on what a user should know: a file that shrank, a batch set aside.
        pause: how the VM was stopped for it; None where that was not asked for.
        why_live: why a live answer is one, by block, or why the VM did not stay paused; None for
            others.
    """

    source: str
    answer: AnswerKind
    engine: str
    kernel: str | None
    channels: int
    page_size: int
    seconds: float
    startup_seconds: float
    bytes_checked: int
    blocks: tuple[BlockReport, ...]
    notes: tuple[str, ...] = ()
    workers: tuple[ChannelReport, ...] = ()
    pause: Pause | None = None
    why_live: str | None = None

    @property
    def statistics(self) -> Statistics:
        """Counts over all channels."""
        return Statistics.total(self.workers)

    @property
    def total(self) -> Counts:
        """Counts over all blocks."""
        return Counts.sum(block.counts for block in self.blocks)

    def with_blocks(self, blocks: tuple[BlockReport, ...]) -> Report:
        """The same report with other block reports, such as ones that name files."""
        return self._replace(blocks=blocks)

    def with_vm(self, notes: Iterable[str], unreadable: Iterable[BlockReport]) -> Report:
        """The same report with what was known of the VM before the scan.

        Args:
            notes: they come first.
            unreadable: its blocks that cannot be read, undecided.
        """
        blocks = (*self.blocks, *unreadable)
        return self._replace(blocks=blocks, notes=(*notes, *self.notes))

    def noting(self, *lines: str) -> Report:
        """The same report with more notes."""
        return self._replace(notes=(*self.notes, *lines))

    def to_json(self) -> dict[str, Any]:
        """The report as the JSON document that `--json` prints."""
        return {
            "version": JSON_VERSION,
            "source": self.source,
            "answer": self.answer,
            "why_live": self.why_live,
            "engine": self.engine,
            "kernel": self.kernel,
            "channels": self.channels,
            "page_size": self.page_size,
            "seconds": round(self.seconds, 6),
            "startup_seconds": round(self.startup_seconds, 6),
            "bytes_checked": self.bytes_checked,
            "blocks": [block.to_json() for block in self.blocks],
            "total": self.total._asdict(),
            "notes": list(self.notes),
            "pause": None if self.pause is None else self.pause._asdict(),
            "statistics": self.statistics._asdict(),
            "workers": [each.to_json() for each in self.workers],
        }


def undecided_report(
    source: str,
    blocks: Sequence[RamBlock],
    engine: str,
    channels: int,
    seconds: float,
    notes: Sequence[str],
) -> Report:
    """The report of a scan that decided nothing, since its deadline passed before it began.

    Args:
        blocks: at least one.
        engine: what was asked for.
        seconds: how long it lasted.
    """
    return Report(
        source=source,
        answer="live",
        engine="dsa" if engine == "dsa" else "cpu",
        kernel=None,
        channels=channels,
        page_size=blocks[0].page_size,
        seconds=seconds,
        startup_seconds=seconds,
        bytes_checked=0,
        blocks=tuple(map(undecided_block, blocks)),
        notes=tuple(notes),
    )


class Answer(NamedTuple):
    """What `Coordinator.check` found, in the caller's order.

    Attributes:
        zero: bool[n]; True is proof that the page was zero when it was read.
        decided: bool[n]; False where a page could not be read: treat it as normal.
        partition: uint64[n]; the offsets that are not zero first, then the zero ones, both in the
            caller's order.
        normal_count: how many of `partition` come first.
        notes: why pages stayed undecided.
    """

    zero: NDArray[np.bool_]
    decided: NDArray[np.bool_]
    partition: NDArray[np.uint64]
    normal_count: int
    notes: tuple[str, ...] = ()
