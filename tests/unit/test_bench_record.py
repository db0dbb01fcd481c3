"""`tools.bench`: a run as a file, two runs compared, and the tables of docs/performance.md."""

import dataclasses
from pathlib import Path

import pytest

from tools.bench import page, quick, record
from tools.bench.rows import Row, Spread


def _row(case: str, minimum: float, median: float, maximum: float) -> Row:
    ratio = Spread(minimum, median, maximum)
    return Row("scan", case, "dd", ratio, 1.0, 2.0, 3.0, None, "ms", detail="now")


def _run(*rows: Row, **machine: str) -> record.Run:
    return record.Run("python -m tools.bench pool", record.machine() | machine, {"pool": [*rows]})


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.json"
    without = Row("scan", "cold", "dd", None, None, None, None, None, note="absent")
    run = _run(_row("zero", 0.9, 1.0, 1.1), without)
    record.write(run, file)
    assert record.read(file) == run


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "suites": 3}'])
def test_what_is_not_a_run_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        record.read(file)


def test_what_moved_beyond_both_spreads_is_shown() -> None:
    old = _run(_row("slower", 0.9, 1.0, 1.1), _row("noisy", 0.9, 1.0, 1.1), _row("gone", 1, 1, 1))
    new = _run(_row("slower", 0.7, 0.8, 0.85), _row("noisy", 0.5, 0.8, 1.2))
    lines = "\n".join(record.compare(old, new))
    assert "slower  dd    1.00 (0.90-1.10)  0.80 (0.70-0.85)  -20%" in lines
    assert "noisy" not in lines
    assert "1 of 2 rows moved" in lines
    assert "1 rows are in one of the runs only" in lines


def test_another_machine_is_said() -> None:
    old, new = _run(cpu="A"), _run(cpu="B")
    assert any("cpu was A, is B" in line for line in record.compare(old, new))


def test_what_was_measured_beside_a_row_is_not_its_name() -> None:
    row = _row("zero", 1, 1, 1)
    assert dataclasses.replace(row, detail="17 us").name == row.name


@pytest.mark.parametrize("path", [page.PAGE, page.SCALE], ids=lambda path: path.name)
def test_the_pages_are_current(path: Path) -> None:
    text = path.read_text()
    assert page.PART.search(text), "no table of the page is generated"
    assert page.page(text) == text


def test_a_table_says_what_limits_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = dataclasses.replace(_row("zero | half", 1, 1, 1), limited_by="the bus")
    record.write(_run(limited, cpu="Z80"), tmp_path / "run.json")
    monkeypatch.setattr(page, "RUNS", tmp_path)
    end = "<!-- end of bench -->"
    text = page.page(f"<!-- machine: run -->\n{end}\n<!-- bench: run pool -->\nold\n{end}\n")
    assert "| cpu | `Z80` |" in text
    assert "| the bus |" in text
    assert r"zero \| half; now" in text
    assert "old" not in text


def test_the_quick_rows_are_found_by_name_or_missed_loudly() -> None:
    rows = [_row("zero", 1, 1, 1), _row("half", 1, 1, 1)]
    assert list(quick._kept(rows, (("scan", "half", "dd"),))) == rows[1:]
    with pytest.raises(LookupError, match="no row"):
        list(quick._kept(rows, (("scan", "random", "dd"),)))
