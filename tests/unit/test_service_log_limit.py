"""The service's log does not grow as fast as clients like."""

import logging

import pytest

from pagecheck.service import log_limit
from pagecheck.service.log_limit import LINES, LogLimit


class Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(LogLimit())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def logged() -> tuple[logging.Logger, list[str]]:
    logger = logging.Logger("pagecheck.test")
    handler = Collecting()
    logger.addHandler(handler)
    return logger, handler.lines


def test_lines_of_one_kind_are_bounded(logged: tuple[logging.Logger, list[str]]) -> None:
    logger, lines = logged
    for number in range(3 * LINES):
        logger.warning("client %d: gone", number)
        if number < 5:
            logger.warning("channel %d: gone", number)
    assert len(lines) == LINES + 5
    assert lines[-1] == f"client {LINES - 1}: gone (no more lines of this kind for a minute)"
    assert lines[0] == "client 0: gone"


def test_they_are_written_again_after_a_while(
    logged: tuple[logging.Logger, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, lines = logged
    for _ in range(2 * LINES):
        logger.warning("gone")
    monkeypatch.setattr(log_limit, "PERIOD_S", 0.0)
    logger.warning("gone")
    assert lines[-1] == "gone"
    assert len(lines) == LINES + 1
