"""One coordinator, many threads: checks, scans, attach, detach and close at once."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest

from pagecheck import Coordinator, PagecheckError
from pagecheck.coordinator import Block, supervisor
from pagecheck.errors import UsageError
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.processes import stop
from tests.support.waiting import Background, wait_for


@pytest.mark.parametrize("channels", [1, 2])
def test_several_threads_check_at_once(channels: int):
    rams = [KnownRam(1500, seed=seed) for seed in range(3)]

    def checks(c: Coordinator, ram: KnownRam, seed: int) -> None:
        block = c.attach(ram.source)
        rng = np.random.default_rng(seed)
        for _ in range(15):
            order = rng.integers(0, ram.pages, rng.integers(1, 2000))
            answer = c.check(block, ram.offsets[order])
            assert answer.decided.all()
            assert (answer.zero == ram.zero[order]).all()
        c.detach(block)

    with Coordinator(channels) as c:
        for thread in [Background(lambda n=n: checks(c, rams[n % 3], n)) for n in range(6)]:
            thread.result()
        assert c.workers_replaced == 0
    for ram in rams:
        ram.close()


def test_check_goes_before_a_scan(large_ram: KnownRam, ram: KnownRam):
    with Coordinator(1) as c:
        slow, block = c.attach(large_ram.source), c.attach(ram.source)
        begun = threading.Event()
        scan = Background(lambda: c.scan(slow, max_rate=64 << 20, progress=lambda *_: begun.set()))
        assert begun.wait(10)
        for _ in range(10):
            assert (c.check(block, ram.offsets).zero == ram.zero).all()
        assert not scan.ended
        assert_scan_is_right(scan.result(), large_ram)


def test_two_scans_of_one_block_at_once(ram: KnownRam):
    with Coordinator(2) as c:
        block = c.attach(ram.source)
        for scan in [Background(lambda: c.scan(block)) for _ in range(4)]:
            assert_scan_is_right(scan.result(), ram)


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
def test_close_while_threads_are_inside(kill: bool, delay: float):
    ram = KnownRam(4096)
    c = Coordinator(2)
    block = c.attach(ram.source)

    def checks(offsets) -> None:
        while True:
            answer = c.check(block, offsets)
            assert not (answer.zero & ~ram.zero[: len(offsets)]).any()

    def scans() -> None:
        while True:
            assert c.scan(block).total.zero <= ram.zero.sum()

    threads = [
        Background(lambda: checks(ram.offsets)),
        Background(lambda: checks(ram.offsets[:100])),
        Background(scans),
    ]
    time.sleep(delay)  # the moment of the close is what varies
    if kill:
        os.kill(c.worker_pids[0], signal.SIGKILL)
    started = time.monotonic()
    c.close()
    assert time.monotonic() - started < 2
    for thread in threads:
        with pytest.raises(UsageError, match="closed"):
            thread.result(5)
    ram.close()


def test_close_ends_a_slow_scan(ram: KnownRam):
    """At one byte per second the next page is an hour away; close does not wait for it."""
    c = Coordinator(1)
    block = c.attach(ram.source)
    begun = threading.Event()
    scan = Background(lambda: c.scan(block, max_rate=1, progress=lambda *_: begun.set()))
    assert begun.wait(10)
    c.close()
    try:
        report = scan.result(3)
    except PagecheckError:
        return
    assert report.total.undecided >= ram.pages - 2


def test_deadline_ends_a_slow_scan(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        scan = Background(lambda: c.scan(block, max_rate=1, deadline=0.4))
        report = scan.result(4)
        assert report.total.undecided >= ram.pages - 2
        assert "deadline" in report.notes[0]


def test_close_while_a_worker_does_not_answer(ram: KnownRam):
    """attach waits for a worker that stands; close must not leave it to start another one."""
    c = Coordinator(1)
    stop(c.worker_pids[0])
    attach = Background(lambda: c.attach(ram.source))
    wait_for(lambda: not c._pool._idle, "attach visits the channel")
    started = time.monotonic()
    c.close()
    assert time.monotonic() - started < 2
    with contextlib.suppress(PagecheckError):
        attach.result(15)


def test_close_while_a_worker_is_replaced(monkeypatch: pytest.MonkeyPatch, ram: KnownRam):
    started, go_on = threading.Event(), threading.Event()
    ring = supervisor.NamedRing

    def slow_ring(*arguments) -> supervisor.NamedRing:
        started.set()
        go_on.wait(10)
        return ring(*arguments)

    c = Coordinator(1)
    block = c.attach(ram.source)
    os.kill(c.worker_pids[0], signal.SIGKILL)
    monkeypatch.setattr(supervisor, "NamedRing", slow_ring)
    check = Background(lambda: c.check(block, ram.offsets))
    assert started.wait(10)
    begun = time.monotonic()
    c.close()
    assert time.monotonic() - begun < 2
    go_on.set()
    with contextlib.suppress(PagecheckError):
        assert not check.result(5).decided.any()


def test_detach_while_a_check_is_about_to_begin(ram: KnownRam):
    """The same as a detach between `require_open` and the attach to a channel that was busy."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        assert c.check(block, ram.offsets).decided.all()
        c.detach(block)
        until_ns = time.monotonic_ns() + 2_000_000_000
        check = Background(
            lambda: c._checker._on_several(c._pool, block, ram.offsets, until_ns),
        )
        try:
            assert not check.result(5).decided.any()
        except PagecheckError:
            pass
        finally:
            c._stop.set()
        assert c.workers_replaced <= 1  # the worker has done nothing wrong


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02])
def test_detach_while_it_is_scanned(large_ram: KnownRam, delay: float):
    """Whatever comes back, no page is called zero that is not."""
    with Coordinator(2, batch_pages=64) as c:
        block = c.attach(large_ram.source)
        scan = Background(lambda: c.scan(block))
        time.sleep(delay)  # the moment of the detach is what varies
        c.detach(block)
        with contextlib.suppress(PagecheckError):
            assert scan.result(10).total.zero <= large_ram.zero.sum()


def test_progress_that_raises_ends_the_scan(large_ram: KnownRam):
    """The scan's feeder threads must not go on behind the caller's back."""

    def broken(done: int, total: int) -> None:
        raise LookupError(done)

    with Coordinator(1) as c:
        block = c.attach(large_ram.source)
        with pytest.raises(LookupError):
            c.scan(block, max_rate=8 << 20, progress=broken)
        wait_for(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("pagecheck-feeder")],
            "the scan's feeder threads ended",
            3,
        )


def test_closed_coordinator_says_so(ram: KnownRam):
    c = Coordinator(1)
    block = c.attach(ram.source)
    c.close()
    c.close()
    for call in (
        lambda: c.check(block, ram.offsets),
        lambda: c.scan(block),
        lambda: c.attach(ram.source),
    ):
        with pytest.raises(UsageError, match="closed"):
            call()


def test_detach_beside_close(ram: KnownRam):
    for _ in range(5):
        c = Coordinator(1)
        blocks = [c.attach(ram.source) for _ in range(60)]

        def detach_all(c: Coordinator = c, blocks: list[Block] = blocks) -> None:
            for block in blocks:
                c.detach(block)

        detaching = Background(detach_all)
        c.close()
        detaching.result(10)


def test_attach_beside_a_hung_worker_does_not_hold_up_the_others(ram: KnownRam):
    with Coordinator(2) as c:
        first = c.attach(ram.source)
        stop(c.worker_pids[0])
        attach = Background(lambda: c.attach(ram.source))
        assert (c.check(first, ram.offsets[:64], deadline=2).zero == ram.zero[:64]).all()
        second = attach.result(5)
        assert (c.check(second, ram.offsets[:64], deadline=2).zero == ram.zero[:64]).all()


@pytest.mark.parametrize("most", [0, 1])
def test_fewer_threads_than_channels(monkeypatch: pytest.MonkeyPatch, most: int, ram: KnownRam):
    """A thread that has just ended may still count, to a limit that is reached: what was begun with
    its help is not given up for the lack of the next one."""
    started = []
    start = threading.Thread.start

    def few(thread: threading.Thread) -> None:
        if thread.name.startswith("pagecheck-feeder"):
            if len(started) == most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    with Coordinator(2) as c:
        block = c.attach(ram.source)
        monkeypatch.setattr(threading.Thread, "start", few)
        assert_scan_is_right(c.scan(block), ram)
        assert_scan_is_right(c.scan(block, progress=lambda *_: None), ram)
    assert len(started) == most
