"""Log records, and `logging` not before there is one."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import pagecheck
from pagecheck import logs

ROOT = Path(pagecheck.__file__).parents[1]


def ran(code: str) -> subprocess.CompletedProcess[str]:
    """The code in a fresh interpreter that has `log`."""
    program = f"import sys; from pagecheck import logs; log = logs.Log('pagecheck.x'); {code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_records_are_those_of_logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = logs.Log("pagecheck.y")
    log.info("a %d", 1)
    log.warning("b %s", "x")
    log.error("%s", "c %")
    log.log(logging.CRITICAL, "d")
    assert [each.getMessage() for each in caplog.records] == ["a 1", "b x", "c %", "d"]
    assert [each.levelno for each in caplog.records] == [20, 30, 40, 50]
    assert {(each.name, each.filename) for each in caplog.records} == {
        ("pagecheck.y", "test_logs.py")
    }


def test_what_nobody_reads_loads_nothing() -> None:
    done = ran("log.info('x %d', 1); sys.exit('logging' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_is_seen() -> None:
    assert ran("log.warning('lost %d', 3)").stderr == "lost 3\n"


def test_it_is_set_up_once_before_the_first_record() -> None:
    done = ran(
        "from pagecheck.cli.streams import log_to_stderr; "
        "logs.set_up_later(lambda: (print('set up'), log_to_stderr(verbose=False))); "
        "print('logging' in sys.modules); log.error('a'); log.info('b'); log.error('c')"
    )
    assert (done.stdout, done.stderr) == ("False\nset up\n", "pagecheck: a\npagecheck: c\n")


def test_who_loaded_logging_sees_all_that_they_asked_for() -> None:
    done = ran("import logging; logging.basicConfig(level=20, format='%(message)s'); log.info('a')")
    assert done.stderr == "a\n"
