"""kill -9 of workers at named points: the answer is right all the same, or says undecided."""

import os
import signal
from collections.abc import Iterator

import pytest

from pagecheck import Coordinator
from pagecheck.child.process import ChildDied
from pagecheck.coordinator import worker as worker_module
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError
from pagecheck.shm.owner import Owner
from tests.support.bitmaps import bits
from tests.support.dying import each_dies_at
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.processes import kill, stop
from tests.support.ring import catch_in_progress
from tests.support.waiting import Background, wait_for

BATCH = 8192


def test_idle_worker(ram: KnownRam):
    with Coordinator(2) as c:
        block = c.attach(ram.source)
        for pid in c.worker_pids:
            kill(pid)
        assert (c.check(block, ram.offsets).zero == ram.zero).all()
        assert_scan_is_right(c.scan(block), ram)
        assert c.workers_replaced >= 1


def test_before_attach(ram: KnownRam):
    with Coordinator(2) as c:
        old = c.worker_pids
        kill(old[0])
        block = c.attach(ram.source)
        assert c.worker_pids[0] != old[0]
        assert c.worker_pids[1] == old[1]
        assert_scan_is_right(c.scan(block), ram)


def test_before_detach_and_between_checks(ram: KnownRam):
    with Coordinator(1) as c:
        first, second = c.attach(ram.source), c.attach(ram.source)
        for _ in range(3):
            kill(c.worker_pids[0])
            assert (c.check(second, ram.offsets).zero == ram.zero).all()
        kill(c.worker_pids[0])
        c.detach(first)
        assert (c.check(second, ram.offsets).zero == ram.zero).all()
        assert c.workers_replaced == 4


@pytest.mark.parametrize("access", ["map", "read"])
def test_with_a_batch_in_hand(large_ram: KnownRam, access: str):
    with Coordinator(2, batch_pages=BATCH) as c:
        block = c.attach(large_ram.source, access=access)
        scan = Background(lambda: c.scan(block))
        pid = catch_in_progress(c)
        kill(pid)
        report = scan.result()
        assert_scan_is_right(report, large_ram)
        assert report.notes == ()
        assert report.bytes_checked == large_ram.size
        assert c.workers_replaced == 1


LARGE = 512 << 20  # one page takes long enough to be caught with, and as a hole costs nothing


@pytest.fixture
def slow() -> Iterator[str]:
    """Four pages that take tens of milliseconds each: three zero ones and one normal one."""
    fd = os.memfd_create("slow")
    os.ftruncate(fd, 4 * LARGE)
    os.pwrite(fd, b"x", 4 * LARGE - 1)
    yield f"fd:{fd}"
    os.close(fd)


def test_several_kills_in_one_scan(slow: str):
    """Every batch loses a worker once, and none of them is set aside."""
    with Coordinator(1) as c:
        block = c.attach(slow, page_size=LARGE, holes="read")
        scan = Background(lambda: c.scan(block))
        for page in range(4):
            kill(catch_in_progress(c, page))
        report = scan.result()
        assert (report.total.zero, report.total.normal, report.total.undecided) == (3, 1, 0)
        assert report.notes == ()
        assert c.workers_replaced == 4


def test_a_batch_whose_every_worker_is_killed_is_set_aside(slow: str):
    with Coordinator(1) as c:
        block = c.attach(slow, page_size=LARGE, holes="read")
        scan = Background(lambda: c.scan(block))
        killed = set()
        for _ in range(2):
            pid = catch_in_progress(c, 2)
            killed.add(pid)
            kill(pid)
        report = scan.result()
        assert bits(report.blocks[0].zero, 4).tolist() == [True, True, False, False]
        assert bits(report.blocks[0].normal, 4).tolist() == [False, False, False, True]
        assert report.total.undecided == 1
        assert len(killed) == c.workers_replaced == 2
        assert len(report.notes) == 1
        assert "1 pages from page 2 were in progress" in report.notes[0]
        assert "undecided" in report.notes[0]
        assert report.bytes_checked == 3 * LARGE
        assert c.scan(block).total.undecided == 0


def test_a_check_whose_every_worker_is_killed(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        for _ in range(2):
            stop(c.worker_pids[0])
            check = Background(lambda: c.check(block, ram.offsets[:100]))
            os.kill(c.worker_pids[0], signal.SIGKILL)
            answer = check.result()
            assert answer.decided.all()
            assert (answer.zero == ram.zero[:100]).all()


@pytest.mark.parametrize("point", ["main", "start", "choose_kernel", "Worker"])
def test_every_worker_dies_during_start(monkeypatch: pytest.MonkeyPatch, point: str):
    monkeypatch.setattr(worker_module.PROGRAM, "code", each_dies_at(point))
    with pytest.raises(EngineError, match=r"channel 0 lost 5 workers .*was killed by signal 9"):
        Coordinator(2)


@pytest.mark.parametrize("point", ["serve", "answer", "attach"])
def test_every_worker_dies_after_start(monkeypatch: pytest.MonkeyPatch, ram: KnownRam, point: str):
    monkeypatch.setattr(worker_module.PROGRAM, "code", each_dies_at(point))
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        with pytest.raises(EngineError, match="no channel is left"):
            c.check(block, ram.offsets)
        with pytest.raises(EngineError, match="no channel is left"):
            c.scan(block)


def test_killed_while_its_siblings_start(monkeypatch: pytest.MonkeyPatch):
    open_ring = WorkerProcess.open

    def dying(worker: WorkerProcess, *arguments) -> None:
        if worker.channel == 1:
            kill(worker.pid)
        open_ring(worker, *arguments)

    monkeypatch.setattr(WorkerProcess, "open", dying)
    with pytest.raises(EngineError, match=r"channel 1 lost 5 workers .*was killed by signal 9"):
        Coordinator(3)


@pytest.mark.parametrize("when", ["before it is told of its ring", "after"])
def test_killed_once_while_its_siblings_start(
    monkeypatch: pytest.MonkeyPatch, ram: KnownRam, when: str
):
    open_ring, killed = WorkerProcess.open, []

    def dying(worker: WorkerProcess, *arguments) -> None:
        first = worker.channel == 1 and not killed
        if first and when != "after":
            killed.append(worker.pid)
            kill(worker.pid)
        elif first:
            os.kill(worker.pid, signal.SIGSTOP)  # it does not answer before it is killed
        open_ring(worker, *arguments)
        if first and when == "after":
            killed.append(worker.pid)
            kill(worker.pid)

    monkeypatch.setattr(WorkerProcess, "open", dying)
    with Coordinator(3) as c:
        assert len(killed) == c.workers_replaced == 1
        assert_scan_is_right(c.scan(c.attach(ram.source)), ram)


def test_replacement_dies_while_it_attaches_and_the_next_one_lives(
    monkeypatch: pytest.MonkeyPatch, ram: KnownRam
):
    attach = WorkerProcess.attach
    deaths = []

    def dying(worker: WorkerProcess, *arguments) -> bool:
        if len(deaths) < 3:
            deaths.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return attach(worker, *arguments)

    with Coordinator(1) as c:
        monkeypatch.setattr(WorkerProcess, "attach", dying)
        block = c.attach(ram.source)
        assert_scan_is_right(c.scan(block), ram)
        assert c.workers_replaced == 3


def test_attach_that_kills_every_worker_gives_the_channel_up(
    monkeypatch: pytest.MonkeyPatch, ram: KnownRam
):
    """Also after work that went well: earlier answers are no reason to go on for ever."""
    deaths = []

    def dying(worker: WorkerProcess, *arguments) -> bool:
        deaths.append(worker.pid)
        assert len(deaths) < 30, "workers are started for ever"
        raise ChildDied("killed by its block")

    with Coordinator(1) as c:
        block = c.attach(ram.source)
        assert (c.check(block, ram.offsets).zero == ram.zero).all()
        c.detach(block)
        monkeypatch.setattr(WorkerProcess, "attach", dying)
        block = c.attach(ram.source)
        with pytest.raises(EngineError, match="no channel is left"):
            c.check(block, ram.offsets)
        assert len(deaths) <= 6


def test_names_of_a_replaced_worker_are_new_and_the_old_ones_gone(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        old = c.segment_names[0]
        prefix = old.rpartition("-")[0][1:]
        kill(c.worker_pids[0])
        c.check(block, ram.offsets)
        assert c.segment_names[0] != old
        assert [name for name in os.listdir("/dev/shm") if prefix in name] == []


def test_owner_is_unlocked_only_after_close(ram: KnownRam):
    with Coordinator(1) as c:
        held = Owner()
        held.close()
        assert os.path.exists("/dev/shm" + c.segment_names[0])
    assert not os.path.exists("/dev/shm" + c.segment_names[0])


@pytest.mark.parametrize("deadline", [0.02, 0.08])
def test_callers_with_short_deadlines_get_a_new_worker_too(ram: KnownRam, deadline: float):
    """A deadline is no failure of the worker's, and a dead worker is no reason to wait longer."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        assert c.check(block, ram.offsets[:64]).decided.all()
        kill(c.worker_pids[0])

        def decided() -> bool:
            return bool(c.check(block, ram.offsets[:64], deadline=deadline).decided.all())

        wait_for(decided, "an answer by the worker that took its place")
        assert c.workers_replaced == 1
        assert (c.check(block, ram.offsets[:64], deadline=5).zero == ram.zero[:64]).all()


def test_a_deadline_kills_no_worker(ram: KnownRam):
    with Coordinator(1) as c:
        pids = c.worker_pids
        with c._pool._free:
            busy = c._pool._idle.pop()
        block = c.attach(ram.source)  # the only channel is busy: it learns of the block later
        c._pool.release(busy)
        for _ in range(8):
            c.check(block, ram.offsets[:64], deadline=1e-6)
        assert (c.check(block, ram.offsets[:64]).zero == ram.zero[:64]).all()
        assert c.worker_pids == pids
        assert c.workers_replaced == 0
