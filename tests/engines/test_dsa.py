"""The DSA engine on the software device: every way to submit, under every fault plan, gives the
answers of numpy, decides every page, changes nothing, and ends in time."""

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pagecheck import Coordinator, Report, scan
from pagecheck.coordinator import settings
from pagecheck.coordinator.scan import ScanWork
from pagecheck.errors import EngineError, UsageError
from pagecheck.shm.layout import statistic
from tests.support.bitmaps import bits
from tests.support.oracle import zero_pages
from tests.support.rams import HOLE, ZEROS, Page, Ram, file_in, undisturbed
from tests.support.waiting import wait_for

MODES = ["shared", "dedicated", "write", "write,version=2"]
PLANS = [
    "none", "page-fault", "page-fault-masked", "page-fault-refused", "list-fault", "abandoned",
    "false-batch-fail", "bad-opcode", "invalid-flags", "reserved", "transfer-size",
    "descriptor-count", "field-value", "overlap", "dualcast", "list-misaligned", "interrupt-handle",
    "record-fault", "record-misaligned", "misaligned", "privilege", "traffic-class", "readback",
    "hw-error", "hw-error-write", "translation", "unknown-status", "late", "lost", "lost-all",
    "full", "always-full", "disable", "disable-forever", "eagain", "eperm", "einval-batch", "short",
    "stuck-close", "store-order", "late-list", "neighbour", "random",
]  # fmt: skip
PAGES = 1500
STALL = 0.4  # a device has a quarter of it


def mixed(seed: int, pages: int = PAGES) -> list[Page]:
    """Runs of zeros, single zeros, pages that only the whole look tells from zeros, holes."""
    draw = random.Random(seed)
    made: list[Page] = []
    while len(made) < pages:
        kind = draw.random()
        if kind < 0.3:
            made += [ZEROS] * draw.randrange(1, 60)
        elif kind < 0.5:
            made += [HOLE] * draw.randrange(1, 20)
        elif kind < 0.8:
            made.append(Page(draw.randrange(64, 2000), 1 << draw.randrange(8)))
        else:
            made += [Page(draw.choice([0, 2048, 4095])), ZEROS]
    return made[:pages]


@pytest.fixture(scope="module")
def ram() -> Iterator[Ram]:
    with file_in("/dev/shm") as made:
        made.fill(mixed(1), 4096)
        yield made


def assert_exact(report: Report, ram: Ram, page_size: int = 4096) -> None:
    expected = zero_pages(ram.fd, page_size)
    block = report.blocks[0]
    assert np.array_equal(bits(block.zero, len(expected)), expected)
    assert np.array_equal(bits(block.normal, len(expected)), ~expected)
    assert block.counts.undecided == 0


def on_model(ram: Ram, options: str, *, stall: float = STALL, **more: object) -> Report:
    before = ram.blocks
    begin = time.monotonic()
    report = scan(ram.source, engine="dsa", wq=[f"model:{options}"], stall=stall, **more)  # type: ignore[arg-type]
    assert time.monotonic() - begin < 20  # far above the sum of all deadlines: nothing hangs
    assert ram.blocks == before
    return report


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ram, str], Report]:
    """As `on_model`, undisturbed, where no answer may be late or missing: on a busy machine the
    device's thread may not run for the tenth of a second that it has there."""
    monkeypatch.setattr(settings, "DEVICE_NS", 15_000_000_000)
    return lambda ram, options: undisturbed(lambda: on_model(ram, options, stall=60))


@pytest.mark.long(but="1")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_gives_the_right_answer(ram: Ram, clean: None, mode: str, plan: str) -> None:
    report = on_model(ram, f"mode={mode},faults={plan},seed=5")
    assert_exact(report, ram)
    assert report.engine == "dsa"
    counted = report.statistics
    pages = counted.pages_device + counted.pages_sampled
    pages += counted.pages_completed + counted.pages_cpu
    assert pages * 4096 == report.bytes_checked


@pytest.mark.long(but="1")
@pytest.mark.parametrize("seed", range(60))
def test_random_plans(ram: Ram, clean: None, seed: int) -> None:
    options = f"mode={MODES[seed % 4]},faults=random,seed={seed},size={1 + seed * 3 % 128}"
    options += f",engines={1 + seed % 3},prs={seed // 3 % 2},ats={seed // 6 % 2}"
    assert_exact(on_model(ram, options), ram)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("plan", ["none", "store-order", "late-list"])
def test_strictness_costs_no_answer(
    ram: Ram, clean: None, patient: Callable[[Ram, str], Report], mode: str, plan: str
) -> None:
    """What the device may do to a submitter that fences, and waits, is not to be noticed."""
    report = patient(ram, f"mode={mode},faults={plan},engines=4,seed=3")
    assert_exact(report, ram)
    counted = report.statistics
    assert set(counted.statuses) <= {"success"}
    assert (counted.timeouts, counted.opens) == (0, 0)  # it was open before the scan
    assert report.workers[0].failure is None


@pytest.mark.long(but="shared-1-2")
@pytest.mark.parametrize(
    ("size", "batch", "transfer"),
    list(itertools.product([1, 2, 128], [2, 3, 1024], ["4K", "12K", "2G"])),
)
@pytest.mark.parametrize("mode", MODES)
def test_limits_of_the_queue_are_kept(
    ram: Ram,
    clean: None,
    patient: Callable[[Ram, str], Report],
    mode: str,
    size: int,
    batch: int,
    transfer: str,
) -> None:
    report = patient(ram, f"mode={mode},size={size},batch={batch},transfer={transfer}")
    assert_exact(report, ram)
    assert set(report.statistics.statuses) <= {"success"}  # the device found nothing to refuse
    assert report.statistics.timeouts == 0  # and dropped nothing


@pytest.mark.parametrize("page_size", [16384, 65536, 2 << 20])
@pytest.mark.parametrize("mode", MODES)
def test_large_pages(mode: str, page_size: int, clean: None) -> None:
    pages = [ZEROS, Page(0), Page(page_size - 1), ZEROS, ZEROS, HOLE, Page(page_size // 2 + 5000)]
    with file_in("/dev/shm") as ram:
        ram.fill(pages * 2, page_size)
        report = undisturbed(lambda: on_model(ram, f"mode={mode}", page_size=page_size))
        assert_exact(report, ram, page_size)
        assert report.statistics.pages_device > 0
        assert "page_fault" not in report.statistics.statuses  # all of a page was populated


def test_pages_larger_than_the_transfer_limit_are_the_cpus(clean: None) -> None:
    with file_in("/dev/shm") as ram:
        ram.fill([ZEROS, Page(9)], 65536)
        report = on_model(ram, "transfer=16K", page_size=65536)
        assert_exact(report, ram, 65536)
        assert report.statistics.descriptors == 0


def test_nothing_is_sent_that_sampling_decides(clean: None) -> None:
    with file_in("/dev/shm") as ram:
        ram.fill([Page(place) for place in (0, 2048, 4095)] * 100, 4096)
        counted = on_model(ram, "").statistics
        assert (counted.descriptors, counted.pages_sampled) == (0, 300)


def test_neighbours_share_a_descriptor(clean: None) -> None:
    with file_in("/dev/shm") as ram:
        ram.fill([ZEROS] * 2048, 4096)
        counted = on_model(ram, "").statistics
        assert counted.pages_device == 2048
        assert counted.descriptors < 2048 // 8


def test_a_lone_page_is_a_plain_descriptor(clean: None) -> None:
    with file_in("/dev/shm") as ram:
        ram.fill([Page(0), ZEROS, Page(0)], 4096)
        counted = on_model(ram, "").statistics
        assert (counted.descriptors, counted.batches) == (1, 0)


def test_holes_are_neither_sent_nor_touched(clean: None) -> None:
    with file_in("/dev/shm") as ram:
        ram.fill([HOLE] * 500 + [ZEROS] + [HOLE] * 500, 4096)
        report = on_model(ram, "")
        assert report.statistics.pages_device <= 1
        assert_exact(report, ram)


def test_every_page_is_populated_before_the_device_sees_it(ram: Ram, clean: None) -> None:
    counted = undisturbed(lambda: on_model(ram, "")).statistics
    assert counted.page_faults == 0  # the software device looks into this process's page table


@pytest.mark.parametrize("mode", MODES)
def test_check_in_any_order_with_duplicates(ram: Ram, clean: None, mode: str) -> None:
    expected = zero_pages(ram.fd, 4096)
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(PAGES), 2))
    with Coordinator(engine="dsa", wq=[f"model:mode={mode}"] * 2) as coordinator:
        block = coordinator.attach(ram.source)
        for count in (1, 2, 128, 129, len(order)):
            offsets = order[:count].astype(np.uint64) * np.uint64(4096)
            answer = coordinator.check(block, offsets)
            assert answer.decided.all()
            assert np.array_equal(answer.zero, expected[order[:count]])
        assert coordinator.channels == 2
        assert sum(statistic(each.words, "descriptors") for each in coordinator.statistics()) > 0


def test_a_queue_that_was_given_up_is_opened_again(ram: Ram, clean: None) -> None:
    queue = "model:faults=disable,seed=3"
    with Coordinator(engine="dsa", wq=[queue], stall=STALL) as coordinator:
        block = coordinator.attach(ram.source)
        end = time.monotonic() + 30
        while statistic(coordinator.statistics()[0].words, "opens") < 3:
            assert time.monotonic() < end
            assert_exact(coordinator.scan(block), ram)


@pytest.mark.parametrize(
    ("plan", "status", "byte"),
    [
        ("hw-error", "hardware_error", 0x20),
        ("invalid-flags", "invalid_flags", 0x11),
        ("lost-all", "no_record", 0),
    ],
)
def test_the_first_failure_is_in_the_report(
    ram: Ram, clean: None, plan: str, status: str, byte: int
) -> None:
    [worker] = on_model(ram, f"faults={plan},seed=5").workers
    document = worker.to_json()
    assert document["failure"]["status"] == status
    descriptor = bytes.fromhex(document["failure"]["descriptor"])
    record = bytes.fromhex(document["failure"]["record"])
    assert (len(descriptor), len(record)) == (64, 32)
    assert descriptor[7] in (1, 6)  # BATCH, COMPVAL
    assert record[0] & 0x3F == byte
    if byte:
        assert document["statistics"]["statuses"][status] > 0  # counted, whatever became of it


@pytest.mark.parametrize("plan", ["none", "page-fault", "list-fault", "abandoned"])
def test_faults_are_no_failures(
    ram: Ram, clean: None, patient: Callable[[Ram, str], Report], plan: str
) -> None:
    if plan == "abandoned":  # members that no fence can have kept from running are missing
        [worker] = on_model(ram, f"faults={plan},seed=5").workers
        assert worker.failure is None
    else:
        report = patient(ram, f"faults={plan},seed=5")
        assert report.workers[0].failure is None
        assert report.statistics.timeouts == 0


def test_the_first_failure_outlives_its_worker(ram: Ram, clean: None) -> None:
    with Coordinator(engine="dsa", wq=["model:faults=hw-error,seed=5"], stall=STALL) as coordinator:
        block = coordinator.attach(ram.source)
        coordinator.scan(block)
        [before] = coordinator.statistics()
        assert before.failure is not None
        os.kill(coordinator.worker_pids[0], 9)
        coordinator.scan(block)
        assert coordinator.workers_replaced == 1
        assert coordinator.statistics()[0].failure == before.failure


def test_blocks_come_and_go_while_a_queue_drains(ram: Ram, clean: None) -> None:
    queue = "model:faults=stuck-close"
    with Coordinator(engine="dsa", wq=[queue], stall=STALL) as coordinator:
        for _ in range(5):
            block = coordinator.attach(ram.source)
            report = coordinator.scan(block)
            assert_exact(report, ram)
            coordinator.detach(block)
        assert coordinator.is_running
        assert f"worker {coordinator.worker_pids[0]}" in " ".join(report.notes)
        assert "has not drained" in " ".join(report.notes)


def test_is_running_tells_the_truth(ram: Ram, clean: None) -> None:
    with Coordinator(engine="dsa", wq=["model:"]) as coordinator:
        assert coordinator.is_running
        os.kill(coordinator.worker_pids[0], 9)
        wait_for(lambda: not coordinator.is_running, "the worker's end seen")
        assert_exact(coordinator.scan(coordinator.attach(ram.source)), ram)
        assert coordinator.is_running
    assert not coordinator.is_running


@pytest.mark.parametrize("mode", MODES)
def test_workers_that_are_killed_in_flight(
    ram: Ram, clean: None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = ScanWork.take
    taken = itertools.count(1)

    def take_and_kill(work: ScanWork) -> tuple[int, int] | None:
        now = next(taken)
        if now in (10, 20, 30):  # one of either channel at least, with pages left to decide
            with contextlib.suppress(ProcessLookupError):
                os.kill(coordinator.worker_pids[now // 10 % 2], 9)
        return take(work)

    monkeypatch.setattr(ScanWork, "take", take_and_kill)
    queue = f"model:mode={mode},delay=20000"
    with Coordinator(engine="dsa", wq=[queue] * 2, batch_pages=16, stall=4.0) as coordinator:
        block = coordinator.attach(ram.source)
        assert_exact(coordinator.scan(block), ram)
        assert coordinator.workers_replaced >= 1
        assert next(taken) > 40
        assert_exact(coordinator.scan(block), ram)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_cut_short_in_flight(clean: None, mode: str) -> None:
    kinds = [ZEROS, ZEROS, Page(100), ZEROS]
    with file_in("/dev/shm") as ram:
        ram.fill([kinds[i % 4] for i in range(2048)], 4096)
        queue = f"model:mode={mode},delay=50000"
        with Coordinator(engine="dsa", wq=[queue], stall=8.0) as coordinator:
            block = coordinator.attach(ram.source)
            cut = threading.Timer(0.02, os.ftruncate, (ram.fd, 1000 * 4096))
            cut.start()
            report = coordinator.scan(block)
            cut.join()
            found = report.blocks[0]
            assert not bits(found.zero, 2048)[1000:].any()
            assert not bits(found.zero, 2048)[2:1000:4].any()
            assert coordinator.workers_replaced == 0


def test_auto_without_a_device_is_the_cpu_and_says_why(ram: Ram, clean: None) -> None:
    if os.path.isdir("/sys/bus/dsa/devices"):
        pytest.skip("this host may have a DSA")
    report = scan(ram.source)
    assert report.engine == "cpu"
    assert "no DSA device" in report.workers[0].why


def test_fallback_is_the_cpu_and_says_why(ram: Ram, clean: None) -> None:
    report = scan(ram.source, engine="dsa", wq=["/dev/dsa/wq99.0"], fallback=True)
    assert report.engine == "cpu"
    assert "/dev/dsa/wq99.0" in report.workers[0].why
    assert_exact(report, ram)


@pytest.mark.parametrize("wqs", [["/dev/dsa/wq99.0"], ["model:", "/dev/dsa/wq99.0"], []])
def test_a_failed_start_leaves_nothing(ram: Ram, clean: None, wqs: list[str]) -> None:
    if not wqs and os.path.isdir("/sys/bus/dsa/devices"):
        pytest.skip("this host may have a DSA")
    with pytest.raises(EngineError, match="cannot initialise DSA: ") as caught:
        Coordinator(engine="dsa", wq=wqs)
    assert (wqs or ["no DSA device"])[-1] in str(caught.value)


def test_nonsense_is_refused(clean: None) -> None:
    with pytest.raises(UsageError, match="colour"):
        Coordinator(engine="dsa", wq=["model:colour=red"])
    with pytest.raises(UsageError, match="a list"):
        Coordinator(engine="dsa", wq="model:")
