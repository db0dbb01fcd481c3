"""Commands that are killed anywhere: `pytest tests/stress -k kill --minutes N`, or `--worlds N` for
N kills a row.

A row is a command, a process of it, or any, and a signal. A failure prints its row and its seed,
and happens again with `-k ROW --seed THAT --worlds 1`.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.stress.budget import Budget
from tests.stress.killing import Kill
from tests.stress.victims import VICTIMS, Site

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
ROWS = [
    (what, who, number)
    for what, victim in VICTIMS.items()
    for who in (*victim.who, "")
    for number in SIGNALS
]
FEW = [
    row
    for row in ROWS
    if row[1] and row[0] not in ("save-live", "verify-damaged") and row[2] == signal.SIGKILL
]


def _name(row: tuple[str, str, signal.Signals]) -> str:
    what, who, number = row
    return f"{what}-{who.rpartition('.')[2].rpartition('/')[2] or 'any'}-{number.name}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        rows = ROWS if metafunc.config.getoption("--worlds") else FEW
        metafunc.parametrize(("what", "who", "number"), rows, ids=map(_name, rows))


@pytest.mark.timeout(0)  # each command has its own
def test_kill(
    there: Site,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    what: str,
    who: str,
    number: signal.Signals,
) -> None:
    first = pytestconfig.getoption("--seed")
    for seed in range(first, first + (pytestconfig.getoption("--worlds") or 1)):
        Kill(what, who, number, seed).happens(there, tmp_path / "fault")


def test_kill_of_any_row(there: Site, tmp_path: Path, budget: Budget) -> None:
    for seed in budget.seeds(3):
        Kill(*random.Random(seed).choice(ROWS), seed).happens(there, tmp_path / "fault")
