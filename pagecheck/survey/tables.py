"""Rows as CSV and as Parquet, for spreadsheets and for programs.

Facts: a file name may have any bytes but a slash and a NUL; CSV and Parquet hold Unicode text, and
a spreadsheet takes a cell that begins with `=` for a formula. Decision: bytes that are not UTF-8
are written as escapes, such as `\\xff`; newlines stay, quoted; a cell of CSV that would be a
formula gets an apostrophe. The journal has the exact names.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

from pagecheck._version import __version__
from pagecheck.errors import EngineError
from pagecheck.snapshot.values import CHUNK_BYTES, DIGEST_BYTES, bitmap_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagecheck.survey.values import Row

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

# Name and Parquet type of each column.
COLUMNS: Final = {
    "path": "string",
    "kind": "string",
    "bytes": "int64",
    "allocated": "int64",
    "pages": "int64",
    "zero": "int64",
    "hole": "int64",
    "normal": "int64",
    "undecided": "int64",
    "zero_share": "double",
    "save_bytes": "int64",
    "bytes_checked": "int64",
    "seconds": "double",
    "gb_per_second": "double",
    "error": "string",
    "note": "string",
    "identity": "string",
}


def save_bytes(row: Row) -> int:
    """About what a save of it would weigh: its pages that are not zero, their bitmap and digests.
    Of a snapshot it is what that has."""
    if not row.pages:
        return 0
    page = row.bytes // row.pages
    digests = -(-row.bytes // CHUNK_BYTES) * DIGEST_BYTES
    return (row.normal + row.undecided) * page + bitmap_bytes(row.pages) + digests


def rate(row: Row) -> float | None:
    """GB that were read in a second of checking time; None where nothing was read."""
    return row.bytes_checked / row.seconds / 1e9 if row.seconds > 0 and row.bytes_checked else None


def cells(row: Row) -> dict[str, Any]:
    """The row's columns."""
    known = row.error is None
    found = {
        **row._asdict(),
        "zero_share": row.zero / row.pages if row.pages else None,
        "save_bytes": save_bytes(row) if known else None,
        "gb_per_second": rate(row),
    }
    return {name: _text(found[name]) for name in COLUMNS}


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def csv_bytes(rows: Iterable[Row]) -> bytes:
    """The rows as CSV, UTF-8, with a line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(map(_cell, cells(row).values()))
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def parquet_bytes(rows: Iterable[Row]) -> bytes:
    """The rows as Parquet.

    Raises:
        EngineError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise EngineError(NO_PARQUET) from error
    found = [cells(row) for row in rows]
    schema = pyarrow.schema(
        [(name, getattr(pyarrow, _TYPES[kind])()) for name, kind in COLUMNS.items()],
        metadata={"pagecheck": __version__},
    )
    table = pyarrow.Table.from_pylist(found, schema=schema)
    made = pyarrow.BufferOutputStream()
    parquet.write_table(table, made)
    return bytes(made.getvalue())


_TYPES: Final = {"string": "string", "int64": "int64", "double": "float64"}
NO_PARQUET: Final = "survey.parquet needs pyarrow: pip install 'pagecheck[survey]'"
