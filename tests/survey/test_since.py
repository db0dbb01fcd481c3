"""What grew since an earlier survey."""

import json
from pathlib import Path

import pytest

from pagecheck.survey.since import Changes, growth
from pagecheck.survey.tables import save_bytes
from pagecheck.survey.values import Row, row_of_error
from tests.support.command import assert_fails, pagecheck
from tests.survey.files import memory


def row(path: str, zero: int, normal: int) -> Row:
    pages = zero + normal
    return Row(path, pages * 4096, None, pages, zero, 0, normal, 0, 0.5)


def test_what_changed_is_listed_the_most_first() -> None:
    before = [row("a", 9, 1), row("b", 9, 1), row("c", 5, 5), row("d", 5, 5), row("gone", 1, 1)]
    before += [row("broken", 1, 1), row_of_error("mended", "was broken")]
    now = [row("a", 8, 2), row("b", 5, 5), row("c", 5, 5), row("d", 9, 1), row("new", 1, 1)]
    now += [row_of_error("broken", "is broken"), row("mended", 1, 1)]
    found = Changes.between({each.path: each for each in before}, now)
    assert found.grown == [("b", 4 * 4096), ("a", 4096)]
    assert found.shrunk == [("d", -4 * 4096)]
    assert (found.new, found.gone) == (["new"], ["gone"])


def test_growth_is_of_the_save() -> None:
    small, large = row("a", 4, 4), row("a", 4000, 5)  # the bitmap counts too
    assert growth(large, {"a": small}) == save_bytes(large) - save_bytes(small) > 4096
    assert growth(large, {}) is None
    assert growth(large, {"a": row_of_error("a", "was broken")}) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, kinds in (("grows", "nzzz"), ("stays", "nz"), ("shrinks", "nnz"), ("goes", "n")):
        memory(tmp_path / "in" / name, kinds)
    done = pagecheck("survey", "--quiet", "--out", tmp_path / "out", tmp_path / "in")
    assert done.returncode == 0
    return tmp_path / "in"


def test_the_command_says_what_grew(folder: Path, tmp_path: Path) -> None:
    memory(folder / "grows", "nnnz")
    memory(folder / "shrinks", "nzz")
    memory(folder / "comes", "n")
    (folder / "goes").unlink()
    page, out = tmp_path / "page.html", tmp_path / "out"
    done = pagecheck("survey", "--since", out, "--out", out, "--html", page, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        f"since the survey in {out}, by what a save would weigh: 1 file grew by 8 KiB in all, "
        "1 shrank by 4 KiB; new: 1, gone: 1",
        f"  +8 KiB  {folder / 'grows'}",
    ]
    (text,) = [line for line in page.read_text().split("<script") if 'id="data"' in line]
    data = json.loads(text.partition(">")[2].partition("<")[0])
    grown = {each[0].rpartition("/")[2]: each[-1] for each in data["rows"]}
    assert grown == {"comes": None, "grows": 8192, "shrinks": -4096, "stays": 0}
    assert data["compared"]


def test_what_is_no_survey_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "survey.jsonl").write_text('{"a": 1}\n')
    out = tmp_path / "new"
    for name, word in (("none", "No such file"), ("other", "is not the journal of a survey")):
        done = pagecheck("survey", "--since", tmp_path / name, "--out", out, folder)
        assert_fails(done, 2, str(tmp_path / name), word)
    assert not out.exists()
