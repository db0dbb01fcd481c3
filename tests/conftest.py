"""Options of the whole suite, and fixtures that any test may ask for."""

import gc
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import MovedClock
from tests.support.leftovers import nothing_left
from tests.support.lengths import is_long


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pagecheck")
    group.addoption("--worlds", type=int, default=None, help="random worlds of tests/stress")
    group.addoption(
        "--require-hw", action="store_true", help="no DSA work queue is a failure, not a skip"
    )
    group.addoption("--seed", type=int, default=1, help="seed of the first random world")
    group.addoption("--minutes", type=float, default=None, help="how long tests/stress goes on")
    group.addoption("--short", action="store_true", help="without what is marked as long")
    group.addoption("--world", default=None, help="the one world that tests/stress runs, a line")


def pytest_configure() -> None:
    """A suite that was started with nohup or in the background passes ignored signals on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is long, if that was asked for."""
    if config.getoption("--short"):
        config.hook.pytest_deselected(items=[item for item in items if is_long(item)])
        items[:] = [item for item in items if not is_long(item)]


def pytest_collection_finish() -> None:
    """What all the modules made stays: `nothing_left` need not look through it twice a test."""
    gc.collect()
    gc.freeze()


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
