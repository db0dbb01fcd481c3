"""Sources for the command, and after every test nothing left in /dev/shm and no process."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.support import tagged_processes
from tests.support.rams import PAGE, sparse_file
from tests.support.waiting import wait_for


def _ownerless() -> set[str]:
    """pagecheck's names in /dev/shm that no living coordinator holds."""
    found = set()
    for name in os.listdir("/dev/shm"):
        bare = name.removeprefix("sem.")
        if bare.startswith("pagecheck-"):
            owner = "-".join(bare.split("-")[:3]) + "-owner"
            try:
                with open(f"/dev/shm/{owner}") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except FileNotFoundError:
                if not os.path.exists(f"/dev/shm/{name}"):
                    continue
            found.add(name)
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = _ownerless()
    yield
    try:
        wait_for(lambda: not tagged_processes(), "no process left", 3)
    finally:
        for pid in tagged_processes():  # so that one test's fault is not the next one's
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not _ownerless() - before, f"/dev/shm clean: {_ownerless() - before}", 3)


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
