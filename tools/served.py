"""A `pagecheck serve` of one's own, for tools that measure it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from pagecheck import Client, PagecheckError

START_S: Final = 30.0
END_S: Final = 30.0


class Served(NamedTuple):
    """A running service.

    Attributes:
        path: its socket.
    """

    path: str
    pid: int


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A service that answers, until the block ends.

    Raises:
        PagecheckError: it does not answer in time.
        RuntimeError: it did not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        command = [sys.executable, "-m", "pagecheck", "serve", "--socket", path]
        process = subprocess.Popen(command)
        try:
            _await_greeting(path)
            yield Served(path, process.pid)
        finally:
            code = _ended(process)
        if code != 0:
            raise RuntimeError(f"pagecheck serve ended with {code}")


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Ends it; its exit code."""
    process.terminate()
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _await_greeting(path: str) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            Client(path).close()
            return
        except PagecheckError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
