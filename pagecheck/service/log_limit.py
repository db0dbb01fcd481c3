"""Log lines that clients can cause: limited, so that no client can fill the log's disk."""

from __future__ import annotations

import logging
import threading
from typing import Final

from pagecheck import clock

LINES: Final = 200  # of one kind
PERIOD_S: Final = 60.0


class LogLimit(logging.Filter):
    """Passes so many lines of one kind in a minute; the last of them says so. A kind is a
    logger and the text of its call, without what is filled in."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._since = clock.now_s()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = (record.name, str(record.msg))
        with self._lock:
            if clock.now_s() - self._since >= PERIOD_S:
                self._counts.clear()
                self._since = clock.now_s()
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count == LINES:
            text = record.getMessage()
            record.msg, record.args = f"{text} (no more lines of this kind for a minute)", ()
        return count <= LINES


def limit_log() -> None:
    """Limits what the root logger writes from now on."""
    limit = LogLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)
