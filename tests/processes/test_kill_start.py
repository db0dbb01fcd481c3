"""kill -9 of a worker at named points of its start: a death like any other, replaced, counted."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck import Coordinator
from pagecheck.coordinator import coordinator as coordinator_module
from pagecheck.coordinator import worker as worker_module
from pagecheck.coordinator.supervisor import FAILURES_MAX
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError, StartTimeout
from pagecheck.shm.owner import Owner
from tests.support.dying import first_die_at
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.processes import state_of
from tests.support.waiting import wait_for


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """The next `deaths` workers are killed at that point of their program."""

    def prepare(point: str, deaths: int, *, after: bool = False) -> None:
        boot = first_die_at(point, tmp_path, deaths, after=after)
        monkeypatch.setattr(worker_module.PROGRAM, "code", boot)

    return prepare


@pytest.mark.parametrize("point", ["main", "start", "choose_kernel", "Worker", "DsaEngine"])
def test_one_worker_dies_while_it_starts(
    die_at: Callable[..., None], ram: KnownRam, point: str
) -> None:
    """As after a shot of the OOM killer: the others and its successor answer everything."""
    die_at(point, 1)
    with Coordinator(2) as c:
        assert c.workers_replaced == 1
        assert c.is_running
        assert_scan_is_right(c.scan(c.attach(ram.source)), ram)
        assert c.workers_replaced == 1


def test_one_worker_dies_right_after_it_was_ready(
    die_at: Callable[..., None], ram: KnownRam
) -> None:
    die_at("start", 1, after=True)
    with Coordinator(2) as c:
        assert_scan_is_right(c.scan(c.attach(ram.source)), ram)
        assert c.workers_replaced == 1


def test_a_whole_scan_survives_a_death_during_the_start(
    die_at: Callable[..., None], ram: KnownRam
) -> None:
    die_at("start", 1)
    assert_scan_is_right(pagecheck.scan(ram.source, channels=2), ram)


def test_several_die_one_after_the_other(die_at: Callable[..., None], ram: KnownRam) -> None:
    die_at("Worker", FAILURES_MAX - 1)
    with Coordinator(1) as c:
        assert c.workers_replaced == FAILURES_MAX - 1
        assert_scan_is_right(c.scan(c.attach(ram.source)), ram)


def test_it_is_tried_so_often_and_no_more(die_at: Callable[..., None], tmp_path: Path) -> None:
    die_at("Worker", FAILURES_MAX + 2)
    with pytest.raises(
        EngineError, match=f"channel 0 lost {FAILURES_MAX} workers while they started"
    ) as caught:
        Coordinator(1)
    assert "was killed by signal 9" in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 2


def _killed(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: state_of(worker.pid) in ("Z", ""), f"worker {worker.pid} dead")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["open", "receive_reply"])
def test_it_dies_while_we_speak_to_it(
    monkeypatch: pytest.MonkeyPatch, ram: KnownRam, step: str, after: bool
) -> None:
    """Before and after the first message is sent, and its answer is waited for."""
    real: Callable[..., Any] = getattr(WorkerProcess, step)
    deaths: list[int] = []

    def dying(worker: WorkerProcess, *given: Any) -> Any:
        first = not deaths
        if first:
            deaths.append(worker.pid)
        if first and not after:
            _killed(worker)
        found = real(worker, *given)
        if first and after:
            _killed(worker)
        return found

    monkeypatch.setattr(WorkerProcess, step, dying)
    with Coordinator(2) as c:
        assert_scan_is_right(c.scan(c.attach(ram.source)), ram)
        assert deaths
        assert c.workers_replaced == 1


def test_one_that_takes_the_place_of_another_dies_while_it_starts(
    die_at: Callable[..., None], ram: KnownRam
) -> None:
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        die_at("start", 2)
        os.kill(c.worker_pids[0], signal.SIGKILL)
        assert_scan_is_right(c.scan(block), ram)
        assert c.workers_replaced == 3


def test_one_that_takes_the_place_of_another_dies_before_it_is_told(
    monkeypatch: pytest.MonkeyPatch, ram: KnownRam
) -> None:
    """The first message is never sent: the channel is not lost for that."""
    real = WorkerProcess.open
    deaths: list[int] = []

    def dying(worker: WorkerProcess, *given: Any) -> None:
        if len(deaths) < 2:
            deaths.append(worker.pid)
            _killed(worker)
        real(worker, *given)

    with Coordinator(1) as c:
        block = c.attach(ram.source)
        monkeypatch.setattr(WorkerProcess, "open", dying)
        os.kill(c.worker_pids[0], signal.SIGKILL)
        assert_scan_is_right(c.scan(block), ram)
        assert len(deaths) == 2
        assert c.workers_replaced == 3


def test_the_start_has_its_time_also_with_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is frozen while it takes the place of a dead one is not waited for longer."""
    real = WorkerProcess.open
    seen: list[int] = []

    def dying(worker: WorkerProcess, *given: Any) -> None:
        seen.append(worker.pid)
        if len(seen) == 1:
            _killed(worker)
        else:
            os.kill(worker.pid, signal.SIGSTOP)
        real(worker, *given)

    monkeypatch.setattr(WorkerProcess, "open", dying)
    with pytest.raises(StartTimeout, match="not ready in time"):
        Coordinator(1, start_timeout=1.0)
    assert len(seen) == 2


@pytest.mark.parametrize("point", ["start", "DsaEngine"])
def test_the_place_of_one_that_never_was_ready_asks_for_the_same_engine(
    die_at: Callable[..., None], point: str
) -> None:
    """Only where a worker had a queue may the CPU stand in for the next one."""
    die_at(point, 1)
    with pytest.raises(EngineError, match=r"cannot initialise DSA.*wq9"):
        Coordinator(1, engine="dsa", wq=["/dev/dsa/wq9.9"])


def test_a_worker_that_is_told_nothing_ends_with_who_started_it() -> None:
    """It waits for its first message for as long as that lives, and may stand still."""
    worker = WorkerProcess(0)
    try:
        wait_for(lambda: state_of(worker.pid) == "S", "a worker that waits")
        assert worker.is_alive()
        worker.hang_up()
        assert worker.wait_gone(time.monotonic_ns() + 20 * 10**9)
    finally:
        worker.kill()
        worker.close()


def test_interrupt_while_the_names_are_claimed_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []

    class Interrupted(Owner):
        def __init__(self) -> None:
            super().__init__()
            paths.append(Path(f"/dev/shm/{self.prefix}-owner"))
            assert paths[0].exists()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(coordinator_module, "Owner", Interrupted)
    interrupted = False
    try:
        Coordinator(1)
    except KeyboardInterrupt:  # not pytest.raises, which keeps the frames, and what they made
        interrupted = True
    assert interrupted
    gc.collect()
    assert not paths[0].exists()
