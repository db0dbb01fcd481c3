"""`pagecheck survey`, as users run it."""

import json
import os
import pty
import re
import signal
from pathlib import Path

import pytest

from tests.support.command import assert_fails, pagecheck, start
from tests.survey.files import memory

KEYS = ["path", "bytes", "allocated", "pages", "zero", "hole", "normal", "undecided", "seconds"]


@pytest.fixture
def folder(disk: Path) -> Path:
    memory(disk / "in" / "a", "nzzz")
    memory(disk / "in" / "b", "hn")
    return disk / "in"


def test_each_file_is_a_line_of_json(folder: Path) -> None:
    done = pagecheck("survey", "--json", folder)
    assert (done.returncode, done.stderr) == (0, "")
    found = {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert sorted(found) == [str(folder / name) for name in ("a", "b")]
    for row in found.values():
        assert list(row) == [*KEYS, "error"]
        assert row["error"] is None
    row = found[str(folder / "a")]
    assert (row["bytes"], row["pages"], row["zero"], row["normal"]) == (16384, 4, 3, 1)


def test_the_table_has_totals(folder: Path) -> None:
    done = pagecheck("survey", folder)
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second, total, sentence = done.stdout.splitlines()
    assert head.split()[:2] == ["file", "size"]
    assert first.split()[:4] == [str(folder / "a"), "16", "KiB", "16"]
    assert "75.0 %" in first
    assert second.startswith(str(folder / "b"))
    assert total.split()[:3] == ["total", "24", "KiB"]
    assert "66.6 %" in total
    assert sentence.startswith("2 files in ")


def test_a_file_with_an_error_is_a_row_and_exit_code_1(folder: Path) -> None:
    (folder / "log").write_text("hello")
    done = pagecheck("survey", folder)
    assert done.returncode == 1
    assert done.stderr == ""
    (line,) = (each for each in done.stdout.splitlines() if each.startswith(f"{folder}/log"))
    assert "is not a multiple of the page size" in line
    assert "1 with an error" in done.stdout
    done = pagecheck("survey", "--json", folder / "log", folder / "none")
    assert done.returncode == 1
    assert all(json.loads(line)["error"] for line in done.stdout.splitlines())


def test_terminals_get_no_control_characters(folder: Path) -> None:
    memory(folder / "\x1b[31mred\nline", "n")
    memory(folder / os.fsdecode(b"\xff"), "n")
    done = pagecheck("survey", folder)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert r"\x1b[31mred\nline" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resume", "x"], "resume"),
        (["--page-size", "5000", "x"], "page size 5000"),
        (["--channels", "0", "x"], "0 channels"),
        (["--max-rate", "0", "x"], "max rate 0"),
        ([], "PATH"),
        (["--out", "/proc/none", "x"], "/proc/none: cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: list[str], told: str) -> None:
    assert_fails(pagecheck("survey", *words), 2, told)


def test_without_pyarrow_one_line_says_so(folder: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'pyarrow' else found(name, *more)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(hidden)}
    done = pagecheck("survey", "--out", tmp_path / "out", folder, env=env)
    assert done.returncode == 0
    assert done.stderr == (
        "pagecheck: survey.parquet needs pyarrow: pip install 'pagecheck[survey]'\n"
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["survey.csv", "survey.jsonl"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_answered_before_an_interrupt_is_printed(
    folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    for each in range(300):
        memory(folder / f"ram{each:03}", "n")
    out = tmp_path / "out"
    page = tmp_path / "survey.html"
    running = start("survey", "--max-rate", "64K", "--out", out, "--html", page, folder)
    journal = out / "survey.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert running.poll() is None
    running.send_signal(number)
    printed, said = running.communicate(timeout=20)
    assert running.returncode == code
    assert said == f"pagecheck: {'interrupted' if code == 130 else 'ended by a signal'}\n"
    assert "total" in printed
    assert printed.splitlines()[-1].startswith("interrupted: these ")
    (told,) = re.findall(r"The survey was interrupted: these (\d+) files", page.read_text())
    assert f"these {told} files" in printed
    done = pagecheck("survey", "--out", out, "--resume", folder)
    assert done.returncode == 0
    assert "answered by an earlier survey" in done.stdout
    assert "302 files" in done.stdout


def test_a_closed_pipe_ends_it(folder: Path) -> None:
    for each in range(300):
        memory(folder / f"ram{each:03}", "n")
    running = start("survey", "--json", "--max-rate", "64K", folder)
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(timeout=20) == 141
    assert running.stderr is not None
    running.stderr.close()


def test_a_terminal_shows_how_far_it_is(folder: Path) -> None:
    for each in range(40):
        memory(folder / f"ram{each:03}", "n")
    ours, theirs = pty.openpty()
    running = start("survey", "--max-rate", "64K", folder, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"42 files" not in shown:
        shown += os.read(ours, 4096)
    assert b"surveying" in shown
    running.send_signal(signal.SIGINT)
    while True:
        try:
            if not os.read(ours, 4096):
                break
        except OSError:  # a terminal without its other end
            break
    os.close(ours)
    running.communicate(timeout=20)
    assert running.returncode == 130


def test_help_says_what_it_needs() -> None:
    text = pagecheck("survey", "--help").stdout
    for word in ("--resume", "--out", "--json", "Exit codes", "Examples"):
        assert word in text


def test_a_page_for_a_browser(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "survey.html"
    done = pagecheck("survey", "--html", page, "--quiet", folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (text,) = re.findall('id="data">(.*?)</script>', page.read_text())
    data = json.loads(text)
    rows = [dict(zip(data["fields"], each, strict=True)) for each in data["rows"]]
    assert [(row["path"], row["pages"]) for row in rows] == [
        (str(folder / "a"), 4),
        (str(folder / "b"), 2),
    ]
    assert [row["picture"] for row in rows] == ["iccc", "fi"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("there", "there: exists; give a new name, nothing is replaced"),
        ("there/x", "cannot write: Not a directory"),
        ("dangling", "dangling: exists"),
        ("pipe", "pipe: exists"),
        ("", "an empty text is not the name of a file"),
        ("no/x", "cannot write: No such file or directory"),
        ("x" * 300, "cannot write: File name too long"),
        ("no\x1b[1m/x", "no\\x1b[1m/x: cannot write"),
    ],
)
def test_where_no_page_can_be_nothing_is_checked(
    folder: Path, tmp_path: Path, name: str, word: str
) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    out = tmp_path / "out"
    done = pagecheck("survey", "--out", out, "--html", name, folder, cwd=tmp_path)
    assert_fails(done, 2, word)
    assert done.stdout == ""
    assert not out.exists()
    assert (tmp_path / "there").read_text() == "mine"


def test_pictures_are_kept_for_a_survey_that_is_resumed(folder: Path, tmp_path: Path) -> None:
    pages = []
    for number in range(2):
        pages.append(tmp_path / f"{number}.html")
        made = ("--out", tmp_path / "out", "--resume", "--html", pages[-1], folder)
        assert pagecheck("survey", "--quiet", *made).returncode == 0
    first, second = (re.findall(r',"([cfi]+)",', page.read_text()) for page in pages)
    assert first == second == ["iccc", "fi"]
    assert "2 rows from an earlier survey" in pages[1].read_text()
