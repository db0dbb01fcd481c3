"""The core's error value becomes an exception in one place, with its number, text and offset."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecheck import native
from pagecheck.native import Feed, Worker, _native
from tests.unit.native_entries import (
    KERNEL,
    NOWHERE,
    PAGE,
    PAGES,
    World,
    memfd,
    offsets,
    ring,
)

BINDING = Path(native.__file__).parent / "python"
RAISES = re.compile(r"\bPyExc_\w+|\bPyErr_(?:Set\w+|Format|NoMemory)")


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_exceptions_are_made_in_one_file() -> None:
    raising = {path.name for path in BINDING.glob("*.[ch]") if RAISES.search(path.read_text())}
    assert raising == {"py_error.c"}


def _twice() -> None:
    with ring() as fds:
        feed = Feed(*fds)
        feed.__init__(*fds)  # type: ignore[misc]


def _short() -> None:
    with memfd(64) as fd:
        Feed(fd)


CUT = "kernel k" + "ä" * 75 + "\ufffd"  # inside a character


@pytest.mark.parametrize(
    ("call", "expected", "text"),
    [
        (lambda: Feed.__new__(Feed).counts(), ValueError, "feed is closed"),
        (_short, ValueError, "channel segment too short"),
        (_twice, RuntimeError, "feed is open already"),
        (lambda: Feed(NOWHERE), OSError, "[Errno 9] cannot stat the channel segment"),
        (lambda: _native.watch_open(NOWHERE), FileNotFoundError, f"[Errno 2] {os.strerror(2)}"),
        (lambda: _native.kernel_self_check("k" + "ä" * 99), ValueError, CUT),
    ],
    ids=["closed", "invalid", "busy", "system", "system without a text", "cut"],
)
def test_a_code_and_its_exception(
    call: Callable[[], object], expected: type[Exception], text: str
) -> None:
    with pytest.raises(expected) as caught:
        call()
    assert (caught.type, str(caught.value)) == (expected, text)


def test_a_system_call_keeps_its_number(world: World) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        world.worker.attach(1, NOWHERE, 0, PAGES * PAGE, PAGE, 0, 0, True)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="cannot stat the control segment") as caught, ring() as fds:
        Worker(fds[0], NOWHERE, KERNEL)
    assert caught.value.errno == errno.EBADF


def test_the_offset_that_is_meant(world: World) -> None:
    with pytest.raises(ValueError, match=r"pages of 4096: .* out of range \(offset 1\)"):
        world.worker.attach(1, world.ram, 1, PAGES * PAGE, PAGE, 0, 0, True)
    with pytest.raises(ValueError, match=r"page 2 is outside the memory \(offset 8192\)"):
        _native.kernel_zero_pages(KERNEL, bytes(2 * PAGE), PAGE, offsets(3), bytearray(8))
