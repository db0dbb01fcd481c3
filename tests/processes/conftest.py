"""After every test: no name in /dev/shm, no child, no descriptor and no feeder thread is left."""

import gc
import os
import threading
from collections.abc import Iterator

import psutil
import pytest

from pagecheck.shm.owner import Owner
from tests.support.known_ram import KnownRam, dense_ram
from tests.support.waiting import wait_for


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that lists
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    prefixes = []
    create = Owner.__init__

    def noted(owner: Owner) -> None:
        create(owner)
        prefixes.append(owner.prefix)

    monkeypatch.setattr(Owner, "__init__", noted)
    gc.collect()
    before = _descriptors()
    earlier = set(threading.enumerate())
    others = set(psutil.Process().children())  # of other tests: each answers for its own
    yield

    def names() -> list[str]:
        return [n for n in os.listdir("/dev/shm") if any(prefix in n for prefix in prefixes)]

    def feeders() -> set[threading.Thread]:
        every = {t for t in threading.enumerate() if t.name.startswith("pagecheck-")}
        return every - earlier

    wait_for(lambda: not feeders(), "feeder threads gone", 3)
    wait_for(lambda: not set(psutil.Process().children()) - others, "children gone", 3)
    assert names() == []
    gc.collect()
    left = {fd: target for fd, target in _descriptors().items() if before.get(fd) != target}
    # Bitmaps live as long as a report of them, also in the frame of an error that a log keeps;
    # test_looking.py tests it.
    left = {fd: target for fd, target in left.items() if not target.endswith("-bitmaps (deleted)")}
    assert left == {}


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
