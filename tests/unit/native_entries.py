"""What the calls of every entry of the extension share: one case for each, by the entry's name.

Buffers and descriptors are new in every call, so that one that is kept shows as memory. What is
wrong is refused by an exception; whatever an argument's type, an object of no use takes its place.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from pagecheck.native import Feed, Worker, _native
from tests.support.waiting import Background, wait_for

FAR = 1 << 62
NOWHERE = 1 << 20  # no descriptor of this process
SLOTS, SLOT_PAGES, PAGES, PAGE = 4, 128, 256, 4096
KERNEL = _native.kernel_auto()
MODEL = ("shared", 64, 60, 128, 1 << 21, 1, 0, "none", 0)
MODEL_MORE = (1, False, True)
REFUSALS = (TypeError, ValueError, OverflowError, OSError, RuntimeError, BufferError)

CASES: dict[str, Callable[["World"], object]] = {}


class Wrong:
    """No argument of any entry, not even a truth value."""

    def __bool__(self) -> bool:
        raise TypeError("no truth value")


WRONG = Wrong()


def case(name: str) -> Callable[[Callable[["World"], object]], Callable[["World"], object]]:
    """The function below calls this entry."""

    def keep(function: Callable[["World"], object]) -> Callable[["World"], object]:
        assert name not in CASES, name
        CASES[name] = function
        return function

    return keep


def entries(module: ModuleType) -> set[str]:
    """Names of everything in the extension that can be called or read, constants aside."""
    found = set()
    for name, value in vars(module).items():
        if isinstance(value, type):
            found |= {f"{name}.{each}" for each in vars(value) if not each.startswith("__")}
            found.add(f"{name}.__init__")
        elif callable(value) and not name.startswith("__"):
            found.add(name)
    return found


def refuses(call: Callable[..., Any], *arguments: object) -> None:
    """The call fails, by an exception that it may raise."""
    try:
        got = call(*arguments)
    except REFUSALS:
        return
    raise AssertionError(f"{call} {arguments} gave {got!r}")


def refuses_all_wrong(call: Callable[..., Any], *good: Any, optional: int = 0) -> None:
    """One argument that is of no use, one too few, one too many."""
    for at in range(len(good)):
        refuses(call, *good[:at], WRONG, *good[at + 1 :])
    refuses(call, *good, WRONG)
    if len(good) > optional:
        refuses(call, *good[: len(good) - optional - 1])


@contextlib.contextmanager
def memfd(size: int) -> Iterator[int]:
    """A nameless file."""
    fd = os.memfd_create("entries")
    os.ftruncate(fd, size)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def ring(slots: int = SLOTS) -> Iterator[tuple[int, int]]:
    """A channel's segment and a control segment."""
    size = _native.segment_bytes(slots, SLOT_PAGES)
    with memfd(size) as fd, memfd(_native.CONTROL_BYTES) as control:
        _native.segment_format(fd, slots, SLOT_PAGES, 1)
        yield fd, control


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """What can be written to, as a queue's node can."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


def bitmaps(count: int = 2) -> list[bytearray]:
    """As many bitmaps over the block."""
    return [bytearray(PAGES // 8) for _ in range(count)]


def marks(count: int = 2) -> list[bytearray]:
    """As many arrays of a byte per page."""
    return [bytearray(PAGES) for _ in range(count)]


def offsets(pages: int = PAGES) -> bytearray:
    """Offsets of the first pages."""
    return bytearray(b"".join((page * PAGE).to_bytes(8, "little") for page in range(pages)))


class World:
    """Two ends of one ring in this process, with one block of RAM."""

    def __init__(self) -> None:
        self.ram = os.memfd_create("ram")
        os.posix_fallocate(self.ram, 0, PAGES * PAGE)
        with ring() as fds:
            self.feed = Feed(*fds)
            self.worker = Worker(*fds, KERNEL)
        self.attach(0)

    def attach(self, block: int) -> None:
        self.worker.attach(block, self.ram, 0, PAGES * PAGE, PAGE, _native.TOUCH_FREELY, 0, True)

    def close(self) -> None:
        self.feed.close()
        self.worker.close()
        os.close(self.ram)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The worker answers in a thread of its own."""
        thread = Background(lambda: self.worker.serve(FAR))
        try:
            yield
        finally:
            self.feed.raise_attention()
            assert thread.result() == _native.SERVE_ATTENTION

    @contextlib.contextmanager
    def batch_out(self) -> Iterator[None]:
        """A batch waits for the worker; afterwards it has been answered."""
        self.feed.begin_range(0, SLOT_PAGES, PAGES, PAGE, *bitmaps(3))
        self.feed.more(0, SLOT_PAGES)
        assert self.feed.pump(False, 0) == _native.PUMP_TIMEOUT
        try:
            yield
        finally:
            self.worker.serve(0)
            assert self.feed.pump(False, FAR) == _native.PUMP_DONE
            self.feed.end()

    @contextlib.contextmanager
    def busy_feed(self) -> Iterator[None]:
        """Another thread is inside `pump`."""
        with self.batch_out():
            thread = Background(lambda: self.feed.pump(False, FAR))
            wait_for(self._is_busy, "the other thread is inside pump")
            try:
                yield
            finally:
                self.worker.serve(0)
                thread.result()

    def _is_busy(self) -> bool:
        try:
            self.feed.counts()
        except RuntimeError:
            return True
        return False

    def close_queue(self) -> None:
        self.worker.close_queue()
        wait_for(lambda: self.worker.queue_state()[0] == _native.QUEUE_NONE, "the queue is closed")
