"""Nothing of others' reaches a terminal raw: one place for error lines, tables and logs."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from pagecheck.cli import streams
from pagecheck.cli.service_table import service_table
from pagecheck.printable import printable, printable_lines

HOSTILE = "a\x1b[31m\x07\x9b2J\r\n‮b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("ü 火", "ü 火"),
        ("", ""),
        (HOSTILE, r"a\x1b[31m\x07\x9b2J\r\n\u202eb"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("\t\0\x7f", r"\t\x00\x7f"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable()


def test_a_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 5000) == "x" * 3000 + " ... " + "x" * 1000
    assert printable("\x1b" + "y" * 10 + "z", 4) == r"\x1byy ... z"


def test_lines_stay_lines() -> None:
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"


def test_say_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    streams.say(f"pagecheck: {HOSTILE}")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    root.handlers[:] = []
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        streams.log_to_stderr(verbose=True)
        yield stream
    finally:
        root.handlers[:], root.level = before


def test_a_log_line_is_one_printable_line(logged: io.StringIO) -> None:
    logging.getLogger("pagecheck.x").info("client %s", HOSTILE)
    assert logged.getvalue().count("\n") == 1
    assert logged.getvalue() == f"pagecheck: client {printable(HOSTILE)}\n"


def test_a_logged_traceback_is_printable(logged: io.StringIO) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("pagecheck.x").exception("client %s", HOSTILE)
    text = logged.getvalue()
    assert "Traceback" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_false_service_does_not_reach_the_terminal() -> None:
    found = {
        "pid": 1,
        "uptime_seconds": 1.0,
        "engine": HOSTILE,
        "kernel": HOSTILE,
        "workers": HOSTILE,
        "workers_replaced": 0,
        "clients": HOSTILE,
        "blocks": 0,
        "channels": 0,
        "numbers": {},
        "engines": {},
        "sessions": [],
    }
    assert all(line.isprintable() for line in service_table(found, None, 0.0).split("\n"))
