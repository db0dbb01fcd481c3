"""Settings of the whole machine: one test run at a time changes them, and puts them back.

Two runs beside each other would put back what the other one had set.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_LOCK: Final = Path(tempfile.gettempdir()) / "pagecheck-tests-kernel-settings"
_held: list[int] = []  # nested uses in this process share the first one's lock


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other run changes settings meanwhile."""
    if _held:
        yield
        return
    fd = os.open(_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        _held.append(fd)
        yield
    finally:
        _held.clear()
        os.close(fd)


@contextlib.contextmanager
def set_to(path: str | os.PathLike[str], value: str | int) -> Iterator[None]:
    """A setting of the kernel, put back whatever happens; skips where it may not be set."""
    with alone():
        try:
            before = Path(path).read_text()
            before = before.partition("[")[2].partition("]")[0] or before  # one word of several
            Path(path).write_text(str(value))
        except OSError as error:
            pytest.skip(f"{path} cannot be set: {error.strerror}")
        try:
            yield
        finally:
            Path(path).write_text(before)
