"""Waiting for what another process or thread will do; the deadline is a failure of the test."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Polls until the condition gives something true, often enough to catch a batch in progress."""
    if not (got := holds_within(seconds, condition)):
        pytest.fail(f"not within {seconds} s: {what}", pytrace=False)
    return got


def holds_within(seconds: float, condition: Callable[[], Any]) -> Any:
    """Polls until the condition gives something true, or the time is over; what it gave last."""
    deadline = time.monotonic() + seconds
    while not (got := condition()) and time.monotonic() <= deadline:
        time.sleep(0.0005)
    return got


class Background:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self, seconds: float = 30.0) -> Any:
        self._thread.join(seconds)
        assert self.ended, f"still running after {seconds} s"
        if self.error is not None:
            raise self.error
        return self._value
