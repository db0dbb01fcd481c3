"""Sources for the command, and after every test nothing left in /dev/shm and no process."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.leftovers import no_command_left
from tests.support.rams import PAGE, sparse_file


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_command_left():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on tmpfs, whose holes are exact to the page."""
    path = Path("/dev/shm") / f"pc-cli-{os.getpid()}-{tmp_path.name}"
    path.mkdir()
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.fixture
def ram(folder: Path) -> Path:
    """70 pages: holes, written zeros (page 3 and 69), normal pages (5, 6 and 64)."""
    data = {3: b"", 69: b"", 5: b"x", 6: b"\0" * 4095 + b"y", 64: b"z"}
    return sparse_file(folder / "guest.ram", 70, data)


@pytest.fixture
def dense(folder: Path) -> Path:
    """4 MiB of random bytes."""
    path = folder / "dense.ram"
    path.write_bytes(np.random.default_rng(3).bytes(1024 * PAGE))
    return path
