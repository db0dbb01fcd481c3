"""`--out`: what is kept, what is used again, what is left alone."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from pagecheck.errors import OutputError, PagecheckError, UsageError
from pagecheck.survey.api import survey
from pagecheck.survey.journal import CSV, JOURNAL, PARQUET
from pagecheck.survey.values import Row
from tests.support.command import pagecheck, start
from tests.support.file_systems import mounted
from tests.support.needs import needs_library
from tests.support.snapshots import make_snapshot
from tests.survey.files import memory

OUT = {JOURNAL, CSV, PARQUET}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / JOURNAL).read_bytes().splitlines()]


def named(rows: tuple[Row, ...]) -> set[str]:
    return {os.path.basename(row.path) for row in rows}


@pytest.fixture(autouse=True)
def parquet() -> None:
    needs_library("pyarrow", "survey")


@pytest.fixture
def folder(disk: Path) -> Path:
    for name, kinds in (("a", "nz"), ("b", "hhn"), ("c", "z")):
        memory(disk / "in" / name, kinds)
        os.utime(disk / "in" / name, (1, 1))
    return disk / "in"


def test_tables_hold_every_row(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = survey([folder, folder / "missing"], out=out)
    assert set(os.listdir(out)) == OUT
    with open(out / CSV, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [each["path"] for each in found] == [row.path for row in summary.rows]
    assert [each["zero"] for each in found] == ["1", "2", "1", "0"]
    assert [each["zero_share"] for each in found][:1] == ["0.5"]
    assert found[3]["error"]
    assert found[3]["save_bytes"] == ""
    head, *rest, end = lines(out)
    assert head["pagecheck-survey"] == 1
    assert end == {"finished": True}
    assert {each["path"] for each in rest} == {row.path for row in summary.rows}


def test_only_what_is_new_or_changed_is_checked_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    survey([folder], out=out)
    memory(folder / "a", "nnz")  # as long as that it is another size
    memory(folder / "d", "n")
    with open(folder / "b", "r+b") as file:  # the same size, another time
        file.write(b"x")
    (folder / "c").rename(folder / "e")
    summary = survey([folder], out=out, resume=True)
    assert summary.reused == 0
    assert [row.normal for row in summary.rows] == [2, 2, 1, 0]
    for name in "abde":
        os.utime(folder / name, (1, 1))
    assert survey([folder], out=out, resume=True).reused == 0  # their ctime changed
    again = survey([folder], out=out, resume=True)
    assert again.reused == 4
    assert [row.normal for row in again.rows] == [2, 2, 1, 0]
    assert again.bytes_checked == 0


def test_a_row_with_an_error_is_tried_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "a").write_bytes(b"x" * 5)
    assert survey([folder], out=out).failed == 1
    memory(folder / "a", "n")
    again = survey([folder], out=out, resume=True)
    assert (again.failed, again.reused) == (0, 2)


def test_a_file_that_is_open_for_writing_is_checked_again(folder: Path, tmp_path: Path) -> None:
    with open(folder / "a", "r+b"):
        first = survey([folder], out=tmp_path / "out")
    assert [row.identity is None for row in first.rows] == [True, False, False]
    assert survey([folder], out=tmp_path / "out", resume=True).reused == 2


def test_another_page_size_is_another_survey(folder: Path, tmp_path: Path) -> None:
    survey([folder], out=tmp_path / "out")
    with pytest.raises(UsageError, match="other options"):
        survey([folder], out=tmp_path / "out", resume=True, page_size=8192)


def test_a_finished_survey_is_replaced_an_unfinished_one_is_not(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    survey([folder], out=out)
    (folder / "a").unlink()
    assert named(survey([folder], out=out).rows) == {"b", "c"}
    assert len(lines(out)) == 4
    kept = (out / JOURNAL).read_bytes().splitlines(keepends=True)[:2]
    (out / JOURNAL).write_bytes(b"".join(kept) + b'{"path": "/torn')
    with pytest.raises(UsageError, match="is not finished; add --resume"):
        survey([folder], out=out)
    summary = survey([folder], out=out, resume=True)
    assert summary.reused == 1
    assert lines(out)[-1] == {"finished": True}


@pytest.mark.parametrize("name", sorted(OUT))
def test_foreign_files_are_left_alone(folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine\n")
    for resume in (False, True):
        with pytest.raises(OutputError, match=f"{name}: is not of a survey"):
            survey([folder], out=out, resume=resume)
    assert (out / name).read_bytes() == b"mine\n"
    assert os.listdir(out) == [name]


def test_a_link_in_the_place_of_the_journal_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError):
        survey([folder], out=tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


def test_lines_that_are_no_rows_are_not_believed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    survey([folder], out=out)
    found = lines(out)
    strange = [{**found[1], "zero": "1"}, {**found[2], "path": None}, {**found[3], "pages": None}]
    strange += [{}, {"path": "/a"}]
    more = [b"[1]", b"nonsense", b"[" * 100_000, b"\xff"]
    text = [json.dumps(each).encode() for each in (found[0], *strange)] + more
    (out / JOURNAL).write_bytes(b"\n".join(text) + b"\n")
    assert survey([folder], out=out, resume=True).reused == 0


def test_the_folder_of_results_is_not_surveyed(folder: Path) -> None:
    for _ in range(2):
        assert named(survey([folder], out=folder / "out").rows) == {"a", "b", "c"}


def test_two_surveys_do_not_write_one_folder(folder: Path, tmp_path: Path) -> None:
    def second(_row: Row) -> None:
        with pytest.raises(OutputError, match="another survey writes it"):
            survey([folder], out=tmp_path / "out", resume=True)

    survey([folder], out=tmp_path / "out", on_row=second)


class Stopped(BaseException):
    pass


def test_what_is_done_is_kept_when_it_is_interrupted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(_row: Row) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        survey([folder], out=out, on_row=stop)
    assert os.listdir(out) == [JOURNAL]
    assert survey([folder], out=out, resume=True).reused == 1


def test_what_is_done_is_kept_when_it_is_killed(folder: Path, tmp_path: Path) -> None:
    for number in range(50):
        memory(folder / f"ram{number}", "n")
    out = tmp_path / "out"
    running = start("survey", "--json", "--out", out, folder)
    assert running.stdout is not None
    first = json.loads(running.stdout.readline())
    running.send_signal(signal.SIGKILL)
    running.communicate()
    done = pagecheck("survey", "--json", "--out", out, "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert first in map(json.loads, done.stdout.splitlines())
    assert set(os.listdir(out)) == OUT


def test_temporary_files_of_a_killed_survey_are_removed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    survey([folder], out=out)
    (out / ".pagecheck-survey-0123456789abcdef").write_bytes(b"half")
    survey([folder], out=out, resume=True)
    assert set(os.listdir(out)) == OUT


def test_a_full_disk_is_one_line_and_keeps_what_there_is(folder: Path, tmp_path: Path) -> None:
    for number in range(200):
        memory(folder / f"ram{number}", "n")
    with mounted(tmp_path, "tmpfs", "32K") as small:
        with pytest.raises(OutputError, match="No space left"):
            survey([folder], out=small / "out")
        assert lines(small / "out")[0]["pagecheck-survey"] == 1


def test_tables_of_an_earlier_survey_stay_when_new_ones_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    survey([folder], out=out)
    before = {name: (out / name).read_bytes() for name in (CSV, PARQUET)}
    memory(folder / "d", "n")

    def fail(*_given: object, **_options: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        with pytest.raises(PagecheckError, match="No space left"):
            survey([folder], out=out)
    assert {name: (out / name).read_bytes() for name in (CSV, PARQUET)} == before
    assert set(os.listdir(out)) == OUT
    assert survey([folder], out=out, resume=True).reused == 4


def test_shared_memory_is_always_checked_again(tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs", "64K") as at:
        memory(at / "ram", "n")
        for _ in range(2):
            summary = survey([at], out=tmp_path / "out", resume=True)
            assert (summary.reused, summary.rows[0].identity) == (0, None)


@pytest.mark.parametrize("name", ["", "rows", "more/rows"])
def test_results_are_not_put_into_a_snapshot(folder: Path, tmp_path: Path, name: str) -> None:
    make_snapshot(tmp_path / "vm1", {"pc.ram": bytes(4096)})
    before = sorted(os.listdir(tmp_path / "vm1"))
    with pytest.raises(OutputError, match="is in the directory of a snapshot"):
        survey([folder], out=tmp_path / "vm1" / name)
    assert sorted(os.listdir(tmp_path / "vm1")) == before
