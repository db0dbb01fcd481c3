"""Options of the whole suite, and the proof that a test leaves nothing behind.

Other coordinators may use /dev/shm at the same time, so only names of owners that this process made
are looked for.
"""

import contextlib
import gc
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.shm.owner import Owner
from tests.support.clock import MovedClock


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pagecheck")
    group.addoption("--worlds", type=int, default=None, help="random worlds of tests/stress")
    group.addoption(
        "--require-hw", action="store_true", help="no DSA work queue is a failure, not a skip"
    )
    group.addoption("--seed", type=int, default=1, help="seed of the first random world")


def pytest_configure() -> None:
    """A suite that was started with nohup or in the background passes ignored signals on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def open_fds() -> dict[int, str]:
    """Descriptors of this process and what they lead to, without those that are being closed."""
    for thread in threading.enumerate():
        if thread.name == "unwatch":  # see pagecheck/shm/rest.py
            thread.join()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _lanes() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("pagecheck")}


@contextlib.contextmanager
def owners_recorded() -> Iterator[list[str]]:
    """The prefixes of the owners that this process makes inside."""
    prefixes: list[str] = []
    original = Owner.__init__

    def recording(self: Owner) -> None:
        original(self)
        prefixes.append(self.prefix)

    Owner.__init__ = recording
    try:
        yield prefixes
    finally:
        Owner.__init__ = original


def names_of(prefixes: list[str]) -> list[str]:
    """What is in /dev/shm of owners with these prefixes."""
    return [n for n in os.listdir("/dev/shm") if any(prefix in n for prefix in prefixes)]


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Fails if what runs inside leaves a name in /dev/shm, a child, a thread or a descriptor."""
    gc.collect()
    fds, children, lanes = open_fds(), _children(), _lanes()
    with owners_recorded() as prefixes:
        yield
    gc.collect()
    names = names_of(prefixes)
    left_fds = {fd: to for fd, to in open_fds().items() if fds.get(fd) != to}
    left = {
        "names in /dev/shm": names,
        "children": sorted(_children() - children),
        "threads": sorted(_lanes() - lanes),
        "descriptors": left_fds,
    }
    assert not any(left.values()), f"left behind: { {k: v for k, v in left.items() if v} }"


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    """The clock of this process is the test's to move."""
    made = MovedClock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def clean() -> Iterator[None]:
    """The test leaves nothing behind."""
    with nothing_left():
        yield


@pytest.fixture(scope="module")
def clean_module() -> Iterator[None]:
    """The tests of the module together leave nothing behind."""
    with nothing_left():
        yield


@pytest.fixture
def shm_folder() -> Iterator[Path]:
    """A folder on tmpfs that is no name of pagecheck's."""
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as name:
        yield Path(name)
