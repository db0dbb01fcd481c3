"""A survey for the terminal: a table with totals, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagecheck.cli.present import columns, size_text
from pagecheck.printable import printable, printable_lines
from pagecheck.survey.since import Changes
from pagecheck.survey.tables import rate, save_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from pagecheck.survey.run import Summary
    from pagecheck.survey.values import Row
    from pagecheck.survey.work import Progress

GREW_MOST: Final = 10  # files that are listed
_HEAD = ("file", "size", "allocated", "pages", "zero", "of which holes", "normal", "undecided")
_MORE = ("zero share", "a save", "time", "GB/s")


def table(rows: Sequence[Row], total: Row) -> str:
    """A line for each row, and their sum."""
    with_errors = any(row.error is not None for row in rows)
    lines = [[*_HEAD, *_MORE, *(["error"] if with_errors else [])]]
    for row in rows:
        cells = _numbers(row) if row.error is None else [""] * (len(_HEAD) + len(_MORE) - 3)
        error = [printable(row.error or "")] if with_errors else []
        lines.append([printable(row.path), *_sizes(row), *cells, *error])
    if len(rows) != 1:
        lines.append(["total", *_sizes(total), *_numbers(total), *([""] if with_errors else [])])
    left = (0, len(lines[0]) - 1) if with_errors else (0,)
    return printable_lines(columns(lines, left))


def _sizes(row: Row) -> list[str]:
    return [size_text(row.bytes), "" if row.allocated is None else size_text(row.allocated)]


def _numbers(row: Row) -> list[str]:
    counts = (row.pages, row.zero, row.hole, row.normal, row.undecided)
    per_second = rate(row)
    return [
        *(f"{count:,}" for count in counts),
        _share(row),
        size_text(save_bytes(row)),
        f"{row.seconds:.2f} s",
        "" if per_second is None else f"{per_second:.1f}",
    ]


def _share(row: Row) -> str:
    if not row.pages:
        return ""
    tenths = 1000 * row.zero // row.pages  # never rounded up to 100 %
    return f"{tenths // 10}.{tenths % 10} %"


def sentences(summary: Summary) -> str:
    """What is said below the table."""
    total, failed = summary.total, summary.failed
    per_second = summary.bytes_checked / summary.seconds / 1e9 if summary.seconds > 0 else 0.0
    parts = [
        f"{_files(len(summary.rows))} in {summary.seconds:.2f} s by {summary.runner}, "
        f"{per_second:.1f} GB/s checked"
    ]
    if summary.reused:
        parts.append(f"{summary.reused:,} answered by an earlier survey")
    if failed:
        parts.append(f"{failed:,} with an error")
    notes = [
        f"note: {printable(row.path)}: {printable(row.note)}" for row in summary.rows if row.note
    ]
    lines = [printable("; ".join(parts)), *notes]
    if total.undecided:
        lines.append(f"note: {total.undecided:,} pages are undecided, and count as normal")
    return "\n".join(lines)


def changes(since: str, before: Mapping[str, Row], rows: Sequence[Row]) -> str:
    """What changed since an earlier survey, and the files that grew most.

    Args:
        since: the folder of the earlier survey.
        before: its rows, by path.
    """
    found = Changes.between(before, rows)
    told = (
        f"{_files(len(found.grown))} grew by {_sum(found.grown)} in all, "
        f"{len(found.shrunk):,} shrank by {_sum(found.shrunk)}; "
        f"new: {len(found.new):,}, gone: {len(found.gone):,}"
    )
    lines = [f"since the survey in {since}, by what a save would weigh: {told}"]
    lines += [f"  +{size_text(growth)}  {path}" for path, growth in found.grown[:GREW_MOST]]
    return "\n".join(map(printable, lines))


def _sum(grown: Sequence[tuple[str, int]]) -> str:
    return size_text(abs(sum(growth for _path, growth in grown)))


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def far(progress: Progress) -> str:
    """How far a survey is, beside its bar."""
    return f"{progress.files:,}/{_files(progress.files_total)}"
