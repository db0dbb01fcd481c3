"""What hung, aborted or was missing in QEMU's DSA series, each as a test under its number in the
reference sheet: here every one ends in a right answer within a bounded time.

Source: QEMU's util/dsa.c as posted in 2023-24, and the review of it.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck import Coordinator, scan
from pagecheck.errors import EngineError, UsageError
from pagecheck.report.statistics import Statistics
from pagecheck.shm.layout import statistic
from tests.support.bitmaps import bits
from tests.support.oracle import zero_pages
from tests.support.rams import HOLE, ZEROS, Page, Ram, file_in, undisturbed
from tests.support.waiting import wait_for

PAGES = 1024
STALL = 0.4  # a device has a quarter of it
BOUND_S = 10.0


@pytest.fixture(scope="module")
def ram() -> Iterator[Ram]:
    kinds = [ZEROS, ZEROS, Page(100), Page(0), ZEROS, HOLE, Page(4000), ZEROS]
    with file_in("/dev/shm") as made:
        made.fill([kinds[i * 7 % 8] for i in range(PAGES)], 4096)
        yield made


def offsets(count: int = PAGES) -> np.ndarray:
    return np.arange(count, dtype=np.uint64) * np.uint64(4096)


def assert_checks(coordinator: Coordinator, ram: Ram, packets: int = 8) -> None:
    """Packets of 128 pages, as a multifd sender has them."""
    expected = zero_pages(ram.fd, 4096)
    block = coordinator.attach(ram.source)
    begin = time.monotonic()
    for packet in range(packets):
        some = offsets()[packet * 128 : packet * 128 + 128]
        answer = coordinator.check(block, some)
        assert answer.decided.all()
        assert np.array_equal(answer.zero, expected[packet * 128 : packet * 128 + 128])
    assert time.monotonic() - begin < BOUND_S
    coordinator.detach(block)


def test_1_a_submission_that_the_queue_never_takes(ram: Ram, clean: None) -> None:
    with Coordinator(engine="dsa", wq=["model:faults=always-full"], stall=STALL) as coordinator:
        assert_checks(coordinator, ram)
        counted = scan(ram.source, engine="dsa", wq=["model:faults=always-full"]).statistics
        assert counted.queue_full > 0
        assert counted.descriptors == 0


def test_1_a_full_queue_is_not_given_up(ram: Ram, clean: None) -> None:
    with Coordinator(engine="dsa", wq=["model:faults=always-full"], stall=STALL) as coordinator:
        block = coordinator.attach(ram.source)
        for _ in range(100):
            report = coordinator.scan(block)
            assert np.array_equal(bits(report.blocks[0].zero, PAGES), zero_pages(ram.fd, 4096))
        assert any("others keep it full" in note for note in report.notes)
        assert Statistics.of(coordinator.statistics()[0].words).opens == 1


def test_2_after_a_failed_wait_the_channel_works_and_tells_the_truth(ram: Ram, clean: None) -> None:
    queue = "model:faults=lost-all"
    with Coordinator(engine="dsa", wq=[queue], stall=STALL) as coordinator:
        for _ in range(3):
            assert_checks(coordinator, ram)
        block = coordinator.attach(ram.source)
        end = time.monotonic() + BOUND_S
        notes = " ".join(coordinator.scan(block).notes)
        while "abandoned" not in notes:  # between two openings it is up
            assert time.monotonic() < end
            notes = " ".join(coordinator.scan(block).notes)
        assert queue in notes
        assert coordinator.is_running
        assert coordinator.workers_replaced == 0


@pytest.mark.parametrize("plan", ["list-fault", "abandoned", "false-batch-fail"])
def test_3_members_without_a_record(ram: Ram, clean: None, plan: str) -> None:
    with Coordinator(engine="dsa", wq=[f"model:faults={plan},seed=2"], stall=STALL) as coordinator:
        assert_checks(coordinator, ram)
        assert coordinator.workers_replaced == 0  # nothing aborted


def test_4_a_record_that_comes_after_patience_ended(ram: Ram, clean: None) -> None:
    queue = "model:delay=250000"  # the device still owns the memory when it is abandoned
    with Coordinator(engine="dsa", wq=[queue], stall=STALL) as coordinator:
        for _ in range(3):
            assert_checks(coordinator, ram)
        counted = coordinator.statistics()[0].words
        assert counted[10] > 0  # timeouts
        block = coordinator.attach(ram.source)
        end = time.monotonic() + BOUND_S
        while "others keep it busy" not in " ".join(coordinator.scan(block).notes):
            assert time.monotonic() < end  # it has drained by then, and nothing was lost
        while Statistics.of(coordinator.statistics()[0].words).opens < 3:
            assert time.monotonic() < end
            coordinator.scan(block)


def test_4_a_shared_queue_that_others_keep_full(ram: Ram, clean: None) -> None:
    with Coordinator(engine="dsa", wq=["model:faults=full,seed=4"], stall=STALL) as coordinator:
        for _ in range(4):
            assert_checks(coordinator, ram)


def test_5_a_start_that_fails_half_way(ram: Ram, clean: None) -> None:
    wqs = ["model:", "/dev/dsa/wq98.0", "/dev/dsa/wq99.0"]  # two fail: one clean error
    with pytest.raises(EngineError, match=r"channel \d: cannot initialise DSA: /dev/dsa/wq9"):
        Coordinator(engine="dsa", wq=wqs)


def test_6_the_queues_own_limits(ram: Ram, clean: None) -> None:
    queue = "model:batch=32,transfer=16K,size=16,threshold=12"  # the driver's default: 32
    with Coordinator(engine="dsa", wq=[queue]) as coordinator:
        assert_checks(coordinator, ram)
        block = coordinator.attach(ram.source)
        report = undisturbed(lambda: coordinator.scan(block))
        assert set(report.statistics.statuses) == {"success"}


def test_7_a_stop_with_work_in_flight(ram: Ram, clean: None) -> None:
    expected = zero_pages(ram.fd, 4096)
    ends: list[float] = []
    with Coordinator(engine="dsa", wq=["model:delay=30000"], stall=4.0) as coordinator:
        block = coordinator.attach(ram.source)

        def job() -> None:
            with contextlib.suppress(UsageError):  # "the coordinator is closed"
                answer = coordinator.check(block, offsets(128), deadline=BOUND_S)
                assert not (answer.zero & ~expected[:128]).any()
            ends.append(time.monotonic())

        waiter = threading.Thread(target=job)
        waiter.start()
        while (
            statistic(coordinator.statistics()[0].words, "descriptors") == 0 and waiter.is_alive()
        ):
            pass
    waiter.join(BOUND_S)
    assert not waiter.is_alive()
    assert ends  # it got its answer, or was told that pages are undecided


@pytest.mark.parametrize("mode", ["shared", "dedicated", "write"])
def test_8_counts_and_every_kind_of_queue(ram: Ram, clean: None, mode: str) -> None:
    report = scan(ram.source, engine="dsa", wq=[f"model:mode={mode}"] * 2)
    assert [each.submit for each in report.workers] == [
        {"shared": "enqcmd", "dedicated": "movdir64b", "write": "write"}[mode]
    ] * 2
    counted = report.statistics
    assert counted.descriptors > 0
    assert counted.submit_ns > 0
    assert (counted.batches > 0) is (mode != "write")
    assert (
        sum(statistic(each.words, "descriptors") for each in report.workers) == counted.descriptors
    )


def test_8_cpu_time_is_counted_once_a_worker_rests(ram: Ram, clean: None) -> None:
    with Coordinator(1, engine="dsa", wq=["model:"]) as coordinator:
        coordinator.scan(coordinator.attach(ram.source))
        wait_for(
            lambda: statistic(coordinator.statistics()[0].words, "cpu_ns") > 0, "the worker rests"
        )


def test_9_the_device_path_runs_without_hardware(ram: Ram, clean: None) -> None:
    report = scan(ram.source, engine="dsa", wq=["model:"])
    assert report.engine == "dsa"
    assert report.statistics.pages_device > 0
    assert np.array_equal(bits(report.blocks[0].zero, PAGES), zero_pages(ram.fd, 4096))
