"""A worker's work queue through the C helper: what is opened is closed, whatever goes wrong."""

import errno
import os
from collections.abc import Iterator

import pytest

from pagecheck.native import Worker, _native
from pagecheck.shm.layout import segment_bytes
from tests.support.waiting import wait_for

DEADLINE_NS = 1_000_000_000


@pytest.fixture
def worker() -> Iterator[Worker]:
    ring, control = os.memfd_create("ring"), os.memfd_create("control")
    os.ftruncate(ring, segment_bytes(4, 128))
    os.ftruncate(control, _native.CONTROL_BYTES)
    _native.segment_format(ring, 4, 128, 1)
    made = Worker(ring, control, _native.kernel_auto())
    os.close(ring)
    os.close(control)
    yield made
    made.close()


@pytest.fixture
def node() -> Iterator[int]:
    """What can be written to, as a queue's node can."""
    read, write = os.pipe()
    yield write
    os.close(read)
    os.close(write)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_state_that_is_not_open_opens_nothing(worker: Worker, node: int) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        worker.open_queue(node, "write", 64, 0, 1 << 21, DEADLINE_NS, 999_999)
    assert caught.value.errno == errno.EBADF
    assert descriptors() == before
    assert worker.queue_state()[0] == _native.QUEUE_NONE


def test_a_closed_queue_closes_its_node_and_its_state(worker: Worker, node: int) -> None:
    state = os.memfd_create("state")
    os.write(state, b"enabled\n")
    before = descriptors()
    worker.open_queue(node, "write", 64, 0, 1 << 21, DEADLINE_NS, state)
    assert worker.queue_state() == (_native.QUEUE_UP, _native.QUEUE_CLOSED, 0)
    assert worker.queue_failure() is None
    assert descriptors() == before + 2
    worker.close_queue()
    wait_for(lambda: worker.queue_state()[0] == _native.QUEUE_NONE, "the queue closed")
    assert descriptors() == before
    os.close(state)


@pytest.mark.parametrize("more", [(5, False, True), (0, False, True)])
def test_a_model_with_too_many_engines(worker: Worker, more: tuple[int, bool, bool]) -> None:
    limits = ("shared", 64, 60, 128, 1 << 21, 1, 0, "none", 0)
    with pytest.raises(ValueError, match="engines is not 1 to 4"):
        worker.open_model(*limits, *more, DEADLINE_NS)
    worker.open_model(*limits, 4, True, False, DEADLINE_NS)
    assert worker.queue_state()[0] == _native.QUEUE_UP
