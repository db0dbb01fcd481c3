"""What the host does not give for a while (descriptors, processes, memory): no failure of the
worker's, and no end of the channel."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pagecheck import Coordinator
from pagecheck.child.wire import Closed, Link
from pagecheck.coordinator import pool, supervisor
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError, ResourceError
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.limits import no_descriptor
from tests.support.processes import kill
from tests.support.waiting import Background, wait_for

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job waits for a shortage's end."""
    monkeypatch.setattr(pool, "REST_NS", 1_000_000)
    monkeypatch.setattr(pool, "REST_MAX_NS", 1_000_000)
    monkeypatch.setattr(supervisor, "PATIENCE_NS", 0)


@pytest.mark.usefixtures("impatient")
def test_a_channel_comes_back_when_there_are_descriptors_again(ram: KnownRam) -> None:
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        assert (c.check(block, ram.offsets[:64]).zero == ram.zero[:64]).all()
        kill(c.worker_pids[0])
        errors: list[Exception] = []
        with no_descriptor():
            for _ in range(12):  # more often than a worker may die
                try:
                    c.check(block, ram.offsets[:64])
                except Exception as error:
                    errors.append(error)
        assert {type(each) for each in errors} == {ResourceError}
        assert len(errors) == 12
        assert "no channel at this moment" in str(errors[0])
        assert "ulimit -n" in str(errors[0])
        assert not c.is_lost
        assert (c.check(block, ram.offsets).zero == ram.zero).all()
        assert c.is_running
        assert_scan_is_right(c.scan(block), ram)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", SHORTAGES)
def test_every_shortage_passes(ram: KnownRam, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with Coordinator(2) as c:
        block = c.attach(ram.source)
        for pid in c.worker_pids:
            kill(pid)
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "_spawn", refuse)
            assert c.scan(block).total.undecided  # what the workers had in progress
            with pytest.raises(ResourceError, match="no channel at this moment"):
                c.scan(block)
        assert_scan_is_right(c.scan(block), ram)


def test_one_channel_in_want_leaves_the_work_to_the_others(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = WorkerProcess._spawn

    def refuse_first(self: WorkerProcess, command: list[str], fd: int) -> object:
        if self.channel == 0:
            raise OSError(errno.EAGAIN, "no more processes")
        return spawn(self, command, fd)

    monkeypatch.setattr(supervisor, "PATIENCE_NS", 0)
    monkeypatch.setattr(pool, "REST_NS", 60_000_000_000)
    monkeypatch.setattr(pool, "REST_MAX_NS", 60_000_000_000)
    with Coordinator(2) as c:
        block = c.attach(ram.source)
        for pid in c.worker_pids:
            kill(pid)
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "_spawn", refuse_first)
            # What the dead one had in progress is undecided; afterwards it is left alone.
            wait_for(lambda: c.scan(block) and c._pool._resting, "the channel rests")
            report = c.scan(block)
            assert_scan_is_right(report, ram)
            assert not [note for note in report.notes if "undecided" in note]
            for _ in range(20):
                assert c.check(block, ram.offsets[:64]).decided.all()


@pytest.mark.usefixtures("impatient")
def test_a_check_that_met_a_shortage_is_answered_by_another_channel(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = WorkerProcess._spawn
    refused: list[int] = []

    def refuse_first(self: WorkerProcess, command: list[str], fd: int) -> object:
        if self.channel == (refused or [self.channel])[0]:
            refused.append(self.channel)
            raise OSError(errno.EAGAIN, "no more processes")
        return spawn(self, command, fd)

    with Coordinator(2) as c:
        block = c.attach(ram.source)
        assert_scan_is_right(c.scan(block), ram)  # both workers know it
        for pid in c.worker_pids:
            kill(pid)
        monkeypatch.setattr(WorkerProcess, "_spawn", refuse_first)
        for _ in range(10):
            answer = c.check(block, ram.offsets[:64])
            assert answer.decided.all(), answer.notes
            assert (answer.zero == ram.zero[:64]).all()
        assert refused


def test_a_job_waits_for_a_short_rest(ram: KnownRam, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker had in progress is not abandoned for a shortage of less than two seconds."""
    refused: list[int] = []
    spawn = WorkerProcess._spawn

    def refuse(self: WorkerProcess, command: list[str], fd: int) -> object:
        if len(refused) < 3:
            refused.append(fd)
            raise OSError(errno.ENOMEM, "no memory")
        return spawn(self, command, fd)

    with Coordinator(1) as c:
        block = c.attach(ram.source)
        kill(c.worker_pids[0])
        monkeypatch.setattr(WorkerProcess, "_spawn", refuse)
        assert_scan_is_right(c.scan(block), ram)
        assert len(refused) == 3


def test_rests_grow_to_a_bound_and_end_with_an_answer(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "REST_MAX_NS", 4 * pool.REST_NS)
    monkeypatch.setattr(supervisor, "PATIENCE_NS", 0)

    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    with Coordinator(1) as c:
        (channel,) = c._pool.channels
        block = c.attach(ram.source)
        kill(c.worker_pids[0])
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "_spawn", refuse)
            for _ in range(3):
                with pytest.raises(ResourceError):
                    c.check(block, ram.offsets[:64])
                seen.append(channel.rest_ns // pool.REST_NS)
        assert seen == [2, 4, 4]  # the first one tried twice
        wait_for(lambda: _is_over(c), "the rest over")
        assert c.check(block, ram.offsets).decided.all()
        assert channel.rest_ns == 0


def _is_over(c: Coordinator) -> bool:
    rests = c._pool._resting.values()
    return all(rest.until_ns <= time.monotonic_ns() for rest in rests)


@pytest.mark.usefixtures("impatient")
def test_a_refused_message_is_not_the_workers_end(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors on their way are counted for all processes of a user together."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    with Coordinator(2) as c:
        pids = c.worker_pids
        with monkeypatch.context() as patch:
            patch.setattr(Link, "send", refuse)
            block = c.attach(ram.source)
            for _ in range(12):
                with pytest.raises(ResourceError, match="wait to be received"):
                    c.check(block, ram.offsets)
        assert (c.check(block, ram.offsets).zero == ram.zero).all()
        assert c.worker_pids == pids
        assert c.workers_replaced == 0


@pytest.mark.usefixtures("impatient")
def test_a_worker_without_a_descriptor_is_replaced(ram: KnownRam) -> None:
    with Coordinator(1) as c:
        (pid,) = c.worker_pids
        full = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (full, full))
        block = c.attach(ram.source)  # the worker cannot take it
        assert c.check(block, ram.offsets).decided.all()
        assert c.worker_pids != [pid]
        assert c.workers_replaced == 1


def test_a_channel_that_loses_every_worker_is_lost_for_good(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deaths are no shortage."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        monkeypatch.setattr("pagecheck.coordinator.worker.PROGRAM.code", "raise SystemExit(9)")
        kill(c.worker_pids[0])
        assert c.check(block, ram.offsets).notes
        assert c.is_lost
        with pytest.raises(EngineError, match="no channel is left"):
            c.check(block, ram.offsets)


def test_a_coordinator_closes_while_its_channels_rest(
    ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    c = Coordinator(1)
    block = c.attach(ram.source)
    kill(c.worker_pids[0])
    monkeypatch.setattr(WorkerProcess, "_spawn", refuse)
    waiting = Background(lambda: c.scan(block))
    wait_for(lambda: c._pool._resting, "the channel rests")
    c.close()
    assert waiting.result().total.undecided == ram.pages


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_an_error_of_ours_does_not_close_a_link(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    ours, theirs = Link.pair()
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_socket", SimpleNamespace(sendmsg=refuse, fileno=lambda: 9))
        with pytest.raises(OSError, match=os.strerror(number)):
            ours.send({})
    ours.send({"x": 1})
    assert theirs.receive(time.monotonic_ns()) == ({"x": 1}, [])
    theirs.close()
    with pytest.raises(Closed):
        ours.send({})
    ours.close()


def test_descriptors_that_could_not_be_taken_are_told() -> None:
    ours, theirs = Link.pair()
    ours.send({"x": 1}, (0, 1))
    with no_descriptor(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        theirs.receive(time.monotonic_ns())
    ours.close()
    theirs.close()


_NO_MEMORY_TO_BEGIN = """
import sys, threading
import pagecheck
real = threading.Thread._bootstrap_inner
def bootstrap(thread):
    if thread.name.startswith("pagecheck-feeder"):
        raise MemoryError
    real(thread)
threading.Thread._bootstrap_inner = bootstrap
print(pagecheck.scan(sys.argv[1], channels=1).total)
"""


@pytest.mark.xfail(
    strict=True,
    raises=subprocess.TimeoutExpired,
    reason="threading.Thread.start() waits without end for a thread that had no memory to begin",
)
def test_a_thread_that_has_no_memory_to_begin(ram: KnownRam) -> None:
    """Found by failing any one mmap of a command."""
    command = [sys.executable, "-c", _NO_MEMORY_TO_BEGIN, f"fd:{ram.fd}"]
    subprocess.run(command, pass_fds=(ram.fd,), timeout=3, check=False, stderr=subprocess.DEVNULL)
