"""The DSA engine on silicon: the same answers as numpy on every usable queue of this host."""

from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck import Coordinator, scan
from pagecheck.hw.queues import WorkQueue
from tests.engines.rams import HOLE, ZEROS, Page, Ram, bits, file_in, zero_pages

pytestmark = pytest.mark.hw
PAGES = 20000


@pytest.fixture(scope="module")
def ram() -> Iterator[Ram]:
    kinds = [ZEROS, ZEROS, Page(100), Page(0), ZEROS, HOLE, Page(4000), ZEROS, ZEROS, Page(2049)]
    with file_in("/dev/shm") as made:
        made.fill([kinds[i * 7 % 10] for i in range(PAGES)], 4096)
        yield made


def test_each_queue_scans(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    expected = zero_pages(ram.fd, 4096)
    for queue in queues:
        before = ram.blocks
        report = scan(ram.source, engine="dsa", wq=[queue.path])
        assert report.engine == "dsa"
        assert report.workers[0].queue == queue.path
        assert report.statistics.pages_device > 0
        assert report.total.undecided == 0
        assert np.array_equal(bits(report.blocks[0].zero, PAGES), expected)
        assert ram.blocks == before


def test_each_queue_checks_in_any_order(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    expected = zero_pages(ram.fd, 4096)
    order = np.random.default_rng(1).permutation(PAGES)
    for queue in queues:
        with Coordinator(engine="dsa", wq=[queue.path]) as coordinator:
            block = coordinator.attach(ram.source)
            for count in (1, 2, 128, PAGES):
                answer = coordinator.check(block, order[:count].astype(np.uint64) * 4096)
                assert answer.decided.all()
                assert np.array_equal(answer.zero, expected[order[:count]])


def test_shared_queues_serve_several_workers(
    queues: list[WorkQueue], ram: Ram, clean: None
) -> None:
    shared = [queue.path for queue in queues if queue.mode == "shared"]
    if not shared:
        pytest.skip("no shared work queue")
    report = scan(ram.source, engine="dsa", wq=shared, channels=4)
    assert {each.engine for each in report.workers} == {"dsa"}
    assert np.array_equal(bits(report.blocks[0].zero, PAGES), zero_pages(ram.fd, 4096))


def test_auto_picks_a_queue_that_takes_batches(
    queues: list[WorkQueue], ram: Ram, clean: None
) -> None:
    report = scan(ram.source)
    able = any(queue.batches for queue in queues)
    assert report.engine == ("dsa" if able else "cpu")
    assert all(each.why for each in report.workers)
