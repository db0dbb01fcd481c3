"""Rows as CSV and Parquet, read back by others."""

import csv
import io
import os

import pytest

from pagecheck.survey.tables import COLUMNS, cells, csv_bytes, parquet_bytes, rate, save_bytes
from pagecheck.survey.values import Row, row_of_error
from tests.support.needs import needs_library

PAGE = 4096
GOOD = Row("/a", 8 * PAGE, PAGE, 8, 6, 5, 1, 1, 0.5, bytes_checked=3 * PAGE, kind="file")
NAMES = {
    "/new\nline": "/new\nline",
    os.fsdecode(b"/\xff\xfe"): r"/\xff\xfe",
    '/quo"te,d': '/quo"te,d',
    "/\u00e4": "/\u00e4",
}


def read_csv(rows: list[Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_bytes(rows).decode())))


def test_numbers_are_of_the_row() -> None:
    found = cells(GOOD)
    assert list(found) == list(COLUMNS)
    assert (found["zero_share"], found["undecided"]) == (0.75, 1)
    assert save_bytes(GOOD) == 2 * PAGE + 8 + 16
    assert rate(GOOD) == 3 * PAGE / 0.5 / 1e9


@pytest.mark.parametrize("name", NAMES)
def test_names_in_csv(name: str) -> None:
    (row,) = read_csv([GOOD._replace(path=name)])
    assert row["path"] == NAMES[name]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    (row,) = read_csv([row_of_error(text, text)])
    assert (row["path"], row["error"]) == (f"'{text}", f"'{text}")


def test_a_row_with_an_error_has_no_numbers() -> None:
    (row,) = read_csv([row_of_error("/a", "is gone")])
    assert [row[name] for name in ("zero_share", "save_bytes", "gb_per_second")] == [""] * 3


def test_parquet_has_the_same() -> None:
    needs_library("pyarrow", "survey")
    import pyarrow
    from pyarrow import parquet

    rows = [*(GOOD._replace(path=name) for name in NAMES), row_of_error("/z", "is gone")]
    table = parquet.read_table(pyarrow.BufferReader(parquet_bytes(rows)))
    assert table.to_pylist() == [cells(row) for row in rows]
    assert table.schema.field("bytes").type == pyarrow.int64()
    assert parquet.read_table(pyarrow.BufferReader(parquet_bytes([]))).num_rows == 0
