"""What every benchmark reports: rows of ratios, as a table for people."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of the ratios of the repeats."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarises the repeats.

        Args:
            values: One number per repeat, at least one.

        Returns:
            Their spread.
        """
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class Row:
    """One comparison; more than 1 means that pagecheck is the better one.

    Attributes:
        what: What of pagecheck was measured, e.g. "kernel avx2, 1 thread".
        case: The data and their order, e.g. "half mix, random order".
        peer: What it was measured against.
        ratio: The peer's time over ours, repeat by repeat; None if the peer is absent.
        aim: The least median that is wanted, or None where none is set.
        ours: Our median, in `unit`.
        theirs: The peer's median, in `unit`; None if the peer is absent.
        limit: The median of what nothing can beat, in `unit`; None if it was not measured.
        unit: The unit of the three figures.
        note: Why something is missing, or empty.
        detail: What else this run measured about the case; not part of the row's name.
        limited_by: What keeps our figure from being better, in a few words.
    """

    what: str
    case: str
    peer: str
    ratio: Spread | None
    aim: float | None
    ours: float | None
    theirs: float | None
    limit: float | None
    unit: str = "ns/page"
    note: str = ""
    detail: str = ""
    limited_by: str = ""

    @classmethod
    def of_seconds(
        cls,
        ours: Sequence[float],
        theirs: Sequence[float],
        limit: Sequence[float] | None = None,
        **told: Any,
    ) -> "Row":
        """A comparison of times, shown in ms.

        Args:
            ours: Seconds of each repeat.
            theirs: The peer's seconds of the same repeats.
            limit: Seconds of what nothing can beat; None if it was not measured.
            told: The other attributes.

        Returns:
            The row.
        """
        return cls(
            ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
            ours=statistics.median(ours) * 1e3,
            theirs=statistics.median(theirs) * 1e3,
            limit=None if limit is None else statistics.median(limit) * 1e3,
            unit="ms",
            **told,
        )

    @property
    def name(self) -> tuple[str, str, str]:
        """What makes a row the same row in another run."""
        return self.what, self.case, self.peer

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the aim; None where there is nothing to compare."""
        if self.ratio is None or self.aim is None:
            return None
        return self.ratio.median >= self.aim


HEADINGS = ("what", "case", "peer", "min", "median", "max", "aim", "ours", "peer's", "limit", "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cells(row: Row) -> tuple[str, ...]:
    """One cell for each of `HEADINGS`."""
    ratio = row.ratio
    spread = (ratio.minimum, ratio.median, ratio.maximum) if ratio else (None, None, None)
    verdict = {True: "reached", False: "not reached", None: ""}[row.reached]
    return (
        row.what,
        "; ".join(filter(None, (row.case, row.detail))),
        row.peer,
        *(_number(value, 2) for value in spread),
        _number(row.aim, 2),
        _number(row.ours, 1),
        _number(row.theirs, 1),
        f"{_number(row.limit, 1)} {row.unit}",
        row.note or verdict,
    )


def lines_up(lines: Sequence[tuple[str, ...]], text: int) -> str:
    """Aligns columns.

    Args:
        lines: as many cells each, the headings first.
        text: how many leading columns hold words; the others hold numbers, but for the last.

    Returns:
        The lines, without a newline at the end.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < text or i == len(widths) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(rows: Sequence[Row]) -> str:
    """Lays the rows out for a terminal.

    Args:
        rows: Any number of rows.

    Returns:
        Lines of aligned columns under a heading, without a newline at the end.
    """
    return lines_up([HEADINGS, *map(cells, rows)], text=3)
