"""The DSA engine on silicon: the same answers as numpy on every usable queue of this host."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck import Coordinator, scan
from pagecheck.hw.devices import WorkQueue
from pagecheck.hw.probe import probe
from pagecheck.hw.queues import find_queue
from tests.support.bitmaps import bits
from tests.support.command import PAGECHECK
from tests.support.oracle import zero_pages
from tests.support.rams import HOLE, ZEROS, Page, Ram, file_in, punch

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


def test_each_queue_passes_the_probe(queues: list[WorkQueue]) -> None:
    for queue in queues:
        found = probe(queue.path)
        assert [step for step in found.steps if not step.ok] == []


def test_pages_that_go_away_meanwhile(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    """Pages of zeros are punched out and written again: zero in either state, and absent from the
    worker's page tables now and then."""
    expected = zero_pages(ram.fd, 4096)
    zeros = np.flatnonzero(expected).tolist()
    offsets = np.arange(PAGES, dtype=np.uint64) * 4096
    for queue in queues:
        with Coordinator(engine="dsa", wq=[queue.path]) as coordinator:
            block = coordinator.attach(ram.source)
            ended = threading.Event()

            def disturb(ended: threading.Event = ended) -> None:
                while not ended.is_set():
                    for page in zeros[::7]:
                        punch(ram.fd, page * 4096, 4096)
                        ram.write(bytes(4096), page * 4096)

            thread = threading.Thread(target=disturb)
            thread.start()
            try:
                for _ in range(50):
                    answer = coordinator.check(block, offsets)
                    assert answer.decided.all()
                    assert np.array_equal(answer.zero, expected)
            finally:
                ended.set()
                thread.join()


def test_two_processes_on_one_queue(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    shared = [queue.path for queue in queues if queue.mode == "shared"]
    if not shared:
        pytest.skip("no shared work queue")
    command = [PAGECHECK, "scan", "--json", "--engine", "dsa"]
    command += ["--wq", shared[0], "--channels", "2", str(ram.source)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        report = json.loads(each.communicate(timeout=60)[0])
        assert report["total"]["zero"] == int(zero_pages(ram.fd, 4096).sum())
        assert (report["engine"], report["total"]["undecided"]) == ("dsa", 0)


def test_disabled_and_enabled_under_load(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    """As root with accel-config: the queue goes away while it is used, and its configuration with
    it; the printed repair brings it back."""
    if os.geteuid() or shutil.which("accel-config") is None:
        pytest.skip("needs root and accel-config")
    queue, expected = queues[0], zero_pages(ram.fd, 4096)
    offsets = np.arange(PAGES, dtype=np.uint64) * 4096
    with Coordinator(engine="dsa", wq=[queue.path], fallback=True) as coordinator:
        block = coordinator.attach(ram.source)
        for command in (f"accel-config disable-wq {queue.device}/{queue.name}", None):
            if command is None:
                why = str(find_queue(queue.path).unusable)
                command = why[why.index("accel-config") :]
            with subprocess.Popen(["sh", "-c", command]) as changing:
                while changing.poll() is None:
                    assert np.array_equal(coordinator.check(block, offsets).zero, expected)
            assert changing.returncode == 0
            assert np.array_equal(coordinator.check(block, offsets).zero, expected)


def test_without_the_right_to_map_portals(queues: list[WorkQueue], ram: Ram, clean: None) -> None:
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to give CAP_SYS_RAWIO up")
    drop = ["setpriv", "--bounding-set=-sys_rawio", "--inh-caps=-sys_rawio"]
    command = [*drop, PAGECHECK, "scan", "--json", "--engine", "dsa"]
    command += ["--wq", queues[0].path, str(ram.source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert report["total"]["zero"] == int(zero_pages(ram.fd, 4096).sum())
    assert report["workers"][0]["submit"] == "write"
