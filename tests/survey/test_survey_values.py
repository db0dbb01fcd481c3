"""The rows of a survey, put together from pieces."""

from pagecheck.model import Counts
from pagecheck.survey.run import total_of
from pagecheck.survey.values import Found, Piece, Target, row_of, row_of_error

TARGET = Target("/snapshots/a.ram", "file", 12288, 8192, "1:2:12288:3")


def test_pieces_are_added() -> None:
    found = [
        Found(Piece(TARGET, 0, 8192), Counts(2, zero=2, hole=1), 4096, 0.25),
        Found(Piece(TARGET, 8192, 4096), Counts(1, normal=1), 4096, 0.5),
    ]
    row = row_of(TARGET, found)
    assert row.to_json() == {
        "path": "/snapshots/a.ram",
        "bytes": 12288,
        "allocated": 8192,
        "pages": 3,
        "zero": 2,
        "hole": 1,
        "normal": 1,
        "undecided": 0,
        "seconds": 0.75,
        "error": None,
    }
    assert (row.kind, row.identity, row.bytes_checked) == ("file", TARGET.identity, 8192)


def test_an_error_has_no_numbers() -> None:
    row = row_of_error("/snapshots/b.ram", "is not there")
    assert (row.pages, row.error, row.kind) == (0, "is not there", None)
    assert row_of_error("b", "cut", TARGET).bytes == 12288


def test_what_objects_occupy_is_unknown_in_total_too() -> None:
    target = Target("s3://b/k", "object", 4096, None, "etag:x")
    row = row_of(target, [Found(Piece(target, 0, 4096), Counts(1, normal=1), 4096, 0.1)])
    assert total_of([row, row]).allocated is None
    assert total_of([row, row._replace(allocated=4096)]).allocated == 4096
    assert total_of([]).allocated == 0
