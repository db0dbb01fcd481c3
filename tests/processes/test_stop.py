"""Workers and coordinators that stand still for a while, and coordinators that are killed."""

import os
import signal
import time

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator.channel import Channel
from pagecheck.shm.owner import Owner, sweep
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.processes import start_program, state_of, stop
from tests.support.ring import RingView, catch_in_progress
from tests.support.waiting import Background, wait_for

OTHER = """
import sys
import numpy as np
from pagecheck import Coordinator
with Coordinator(2, stall=1.0, batch_pages=8192) as c:
    block = c.attach(f"fd:{sys.argv[1]}")
    print(*c.worker_pids, c.segment_names[0], flush=True)
    for line in sys.stdin:
        total = c.scan(block).total
        print(total.zero, total.normal, total.undecided, c.workers_replaced, flush=True)
"""


@pytest.mark.parametrize("what", ["scan", "check"])
def test_stopped_worker_is_replaced(large_ram: KnownRam, what: str):
    with Coordinator(1, stall=0.5, batch_pages=8192) as c:
        block = c.attach(large_ram.source)
        if what == "scan":
            scan = Background(lambda: c.scan(block))
            pid = catch_in_progress(c)
            assert_scan_is_right(scan.result(), large_ram)
        else:
            pid = c.worker_pids[0]
            stop(pid)
            answer = c.check(block, large_ram.offsets)
            assert answer.decided.all()
            assert (answer.zero == large_ram.zero).all()
        assert c.workers_replaced == 1
        assert state_of(pid) == ""  # killed and reaped, not left stopped


def test_a_check_that_is_interrupted_reaches_no_later_one(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with Coordinator(1) as c:
        block = c.attach(ram.source)
        assert c.check(block, ram.offsets[:64]).decided.all()
        for first in range(0, 512, 64):
            with monkeypatch.context() as patch:
                patch.setattr(Channel, "finish_check", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    c.check(block, ram.offsets[first : first + 64])
            some = ram.offsets[::-1][first : first + 100]
            answer = c.check(block, some)
            assert answer.decided.all()
            assert (answer.zero == ram.zero[::-1][first : first + 100]).all()
        assert c.workers_replaced == 0


def test_slow_worker_is_not_replaced(large_ram: KnownRam):
    """Its progress word rises, however slowly: here once in every fifth of a second."""
    with Coordinator(1, stall=1.0, batch_pages=32768) as c:
        block = c.attach(large_ram.source)
        pid, view = c.worker_pids[0], RingView(c.segment_names[0])
        stop(pid)
        scan = Background(lambda: c.scan(block))
        for _ in range(12):
            seen = view.control("progress")
            time.sleep(0.2)  # the stillness is the subject here
            os.kill(pid, signal.SIGCONT)
            wait_for(lambda n=seen: scan.ended or view.control("progress") != n, "progress")
            stop(pid)
        os.kill(pid, signal.SIGCONT)
        assert_scan_is_right(scan.result(), large_ram)
        assert c.workers_replaced == 0
        view.close()


def test_stopped_coordinator_does_not_take_its_pause_for_the_workers(large_ram: KnownRam):
    with start_program(OTHER, large_ram.fd) as other:
        first, second, _name = other.stdout.readline().split()
        for pid in (first, second):
            stop(int(pid))
        other.stdin.write("scan\n")
        other.stdin.flush()
        time.sleep(0.3)  # the watch runs, and must not reach 1 s
        stop(other.pid)
        time.sleep(1.5)
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(0.1)  # its next look comes while the workers still stand
        for pid in (first, second):
            os.kill(int(pid), signal.SIGCONT)
        counts = [int(n) for n in other.stdout.readline().split()]
        other.stdin.close()
        assert other.wait(10) == 0
    zero = int(large_ram.zero.sum())
    assert counts == [zero, large_ram.pages - zero, 0, 0]


def test_killed_coordinator_takes_its_workers_with_it(large_ram: KnownRam):
    with start_program(OTHER, large_ram.fd) as other:
        *pids, name = other.stdout.readline().split()
        prefix = "-".join(name.split("-")[:3])[1:]
        other.stdin.write("scan\n")
        other.stdin.flush()
        other.kill()
        other.wait()
        for pid in pids:
            wait_for(lambda pid=int(pid): state_of(pid) in ("", "Z"), f"worker {pid} ended", 5)
    left = [each for each in os.listdir("/dev/shm") if prefix in each]
    assert left
    sweep()
    young = [each for each in os.listdir("/dev/shm") if prefix in each]
    assert young == left  # it may be a start-up between creating and locking
    for each in left:
        os.utime(f"/dev/shm/{each}", (time.time() - 10, time.time() - 10))
    with Coordinator(1):
        assert [each for each in os.listdir("/dev/shm") if prefix in each] == []


def test_sweep_spares_the_living_others_and_links():
    held, dead = Owner(), Owner()
    strangers = [
        f"pagecheck-{os.geteuid() + 1}-0123456789abcdef-owner",
        f"pagecheckers-{os.geteuid()}-x",
        f"sem.other-pagecheck-{os.geteuid()}-x",
    ]
    old = time.time() - 60
    paths = [f"/dev/shm/{name}" for name in strangers]
    try:
        for path in paths:
            with open(path, "x"):
                os.utime(path, (old, old))
        for owner in (held, dead):
            os.utime(owner._path, (old, old))
        os.close(dead._fd)  # as the kernel does for the dead
        removed = sweep()
        assert os.path.basename(dead._path) in removed
        assert os.path.exists(held._path)
        assert all(os.path.exists(path) for path in paths)
    finally:
        held.close()
        for path in paths:
            os.unlink(path)


def test_a_sweep_never_disturbs_a_start():
    """The sweep's look at a lock must not make the owner's own locking fail."""
    stopped = []
    sweeper = Background(lambda: [sweep() for _ in iter(lambda: bool(stopped), True)])
    try:
        for _ in range(1500):
            Owner().close()
    finally:
        stopped.append(True)
        sweeper.result()


def test_two_coordinators_side_by_side(ram: KnownRam):
    with Coordinator(1) as one, Coordinator(1) as two:
        first, second = one.attach(ram.source), two.attach(ram.source)
        scans = [Background(lambda: one.scan(first)), Background(lambda: two.scan(second))]
        for scan in scans:
            assert_scan_is_right(scan.result(), ram)
        one.close()
        assert (two.check(second, ram.offsets).zero == ram.zero).all()
        assert two.workers_replaced == 0


def test_deadline_passes_and_the_channel_stays_usable(large_ram: KnownRam):
    with Coordinator(1, batch_pages=8192) as c:
        block = c.attach(large_ram.source)
        pid = c.worker_pids[0]
        stop(pid)
        started = time.monotonic()
        report = c.scan(block, deadline=0.3)
        answer = c.check(block, large_ram.offsets[:5000], deadline=0.3)
        assert time.monotonic() - started < 3
        assert report.total.undecided == large_ram.pages
        assert "deadline" in report.notes[0]
        assert not answer.decided.any()
        assert not answer.zero.any()
        assert answer.normal_count == 5000  # undecided pages are sent as normal ones
        assert "deadline" in answer.notes[0]
        os.kill(pid, signal.SIGCONT)
        order = np.random.default_rng(5).permutation(large_ram.pages)[:9000]
        later = c.check(block, large_ram.offsets[order])
        assert (later.zero == large_ram.zero[order]).all()
        assert_scan_is_right(c.scan(block), large_ram)
        assert c.worker_pids == [pid]


def test_worker_stopped_during_start_ends_with_close(ram: KnownRam):
    """A deadline in mid-scan leaves late answers in the ring; they reach no later job."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        stop(c.worker_pids[0])
        for _ in range(3):
            assert not c.check(block, ram.offsets[::-1], deadline=0.05).decided.any()
        os.kill(c.worker_pids[0], signal.SIGCONT)
        answer = c.check(block, ram.offsets)
        assert (answer.zero == ram.zero).all()
        stop(c.worker_pids[0])
        started = time.monotonic()
        c.close()
        assert time.monotonic() - started < 2
