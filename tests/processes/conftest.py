"""After every test: no name in /dev/shm, no child, no descriptor and no feeder thread is left."""

import os
from collections.abc import Iterator

import pytest

from tests.support import leftovers
from tests.support.known_ram import KnownRam, dense_ram


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leftovers.nothing_left(3, reports_live=True):
        yield


@pytest.fixture(scope="session")
def large_ram() -> Iterator[KnownRam]:
    """128 MiB without a hole: a batch of 32 MiB is long enough to be caught in a worker's hand."""
    ram = dense_ram(32768, normal_share=0.01)
    yield ram
    ram.close()


@pytest.fixture
def ram() -> Iterator[KnownRam]:
    """4 MiB without a hole, half of its pages zero."""
    ram = dense_ram(1024)
    yield ram
    ram.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were started meanwhile."""
    pids: list[int] = []
    spawn = os.posix_spawn

    def noting(*given: object, **options: object) -> int:
        pids.append(spawn(*given, **options))
        return pids[-1]

    monkeypatch.setattr(os, "posix_spawn", noting)
    return pids
