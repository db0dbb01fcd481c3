"""What every benchmark reports: rows of ratios, as a table for people and as JSON."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the aim; None where there is nothing to compare."""
        if self.ratio is None or self.aim is None:
            return None
        return self.ratio.median >= self.aim


_HEADINGS = ("what", "case", "peer", "min", "median", "max", "aim", "ours", "peer's", "limit", "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    spread = (ratio.minimum, ratio.median, ratio.maximum) if ratio else (None, None, None)
    verdict = {True: "reached", False: "not reached", None: ""}[row.reached]
    return (
        row.what,
        row.case,
        row.peer,
        *(_number(value, 2) for value in spread),
        _number(row.aim, 2),
        _number(row.ours, 1),
        _number(row.theirs, 1),
        f"{_number(row.limit, 1)} {row.unit}",
        row.note or verdict,
    )


def table(rows: Sequence[Row]) -> str:
    """Lays the rows out for a terminal.

    Args:
        rows: Any number of rows.

    Returns:
        Lines of aligned columns under a heading, without a newline at the end.
    """
    lines = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = 3  # the leading columns hold words, the others numbers
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < text or i == len(widths) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as a JSON list of objects, each with `reached` added.

    Args:
        rows: Any number of rows.
        path: The file, replaced if it exists; its folder is made.

    Raises:
        OSError: The file cannot be written.
    """
    objects = [dataclasses.asdict(row) | {"reached": row.reached} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(objects, indent=1) + "\n")
