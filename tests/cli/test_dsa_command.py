"""`pagecheck scan --engine dsa` as a process: exit codes and what it says."""

from pathlib import Path

import pytest

from tests.support.command import assert_fails, pagecheck

DIGITS = "9" * 5000  # more than int() takes


@pytest.mark.parametrize("option", ["--page-size", "--length", "--max-rate"])
def test_a_size_that_cannot_be(ram: Path, option: str) -> None:
    assert_fails(pagecheck("scan", option, DIGITS, ram), 2, "is not a size")


@pytest.mark.parametrize("engine", ["dsa", "auto"])
@pytest.mark.parametrize("wq", [f"model:seed={DIGITS}", "model:transfer=1", "model:faults=\x1b[2J"])
def test_a_queue_that_cannot_be(ram: Path, engine: str, wq: str) -> None:
    done = pagecheck("scan", "--engine", engine, "--wq", wq, ram)
    assert "\x1b" not in assert_fails(done, 2, "wq 'model:")


def test_a_queue_that_is_not_there(ram: Path) -> None:
    done = pagecheck("scan", "--engine", "dsa", "--wq", "/dev/dsa/wq99.0", ram)
    assert_fails(done, 3, "cannot initialise DSA: /dev/dsa/wq99.0")
