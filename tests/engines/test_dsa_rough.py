"""The DSA engine in rough hands: nonsense for options, queues that stay away, dead workers."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import Coordinator, clock, scan
from pagecheck.errors import UsageError
from pagecheck.hw import dsa, queues
from pagecheck.hw.devices import WorkQueue
from pagecheck.hw.wq import parse
from pagecheck.native import _native
from tests.support.clock import MovedClock
from tests.support.rams import ZEROS, Page, Ram, file_in

DIGITS = "9" * 5000  # more than int() takes


@pytest.fixture(scope="module")
def ram() -> Iterator[Ram]:
    with file_in("/dev/shm") as made:
        made.fill([ZEROS, ZEROS, Page(100)] * 400, 4096)
        yield made


@pytest.mark.parametrize("more", [{"engine": "auto"}, {"engine": "dsa", "fallback": True}])
def test_a_fault_plan_that_nobody_knows_is_a_mistake(ram: Ram, clean: None, more: dict) -> None:
    """The CPU standing in would hide it."""
    with pytest.raises(UsageError, match="unknown fault plan") as caught:
        scan(ram.source, wq=["model:faults=\x1b[31m"], **more)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("wqs", [b"model:", [b"model:"], [Path("/dev/dsa/wq0.0")], [0]])
def test_names_that_are_no_text(clean: None, wqs: object) -> None:
    with pytest.raises(UsageError, match=r"^wq "):
        Coordinator(engine="dsa", wq=wqs)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [f"seed={DIGITS}", f"size={DIGITS}K", "transfer=4095"])
def test_numbers_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number from"):
        parse(f"model:{text}")


@pytest.mark.parametrize("steady", [False, True])
def test_a_queue_that_stays_away_is_tried_at_bounded_distances(
    monkeypatch: pytest.MonkeyPatch, moved_clock: MovedClock, tmp_path: Path, steady: bool
) -> None:
    """Whether it was never had, or was up for long before."""
    worker = Worker()
    path = tmp_path / "wq0.0"
    path.touch()
    queue = WorkQueue(
        "wq0.0", str(path), "dsa0", "dedicated", 128, 0, 1024, 2 << 20, 0x100, -1, "movdir64b",
        True, None, None,
    )  # fmt: skip
    monkeypatch.setattr(queues, "find_queue", lambda _path: queue)
    worker.busy = not steady
    engine = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    picked = engine.open("dsa", [str(path)], 0, fallback=True)
    assert picked.engine == ("dsa" if steady else "cpu")
    worker.state, worker.busy = _native.QUEUE_NONE, True
    moved_clock.ns += dsa.STEADY_NS + 1
    worker.refused_at.clear()
    begin = moved_clock.ns
    for _ in range(40):
        moved_clock.ns = engine.tend()
    pauses = [min(dsa.FIRST_PAUSE_NS << n, dsa.PAUSE_MAX_NS) for n in range(39)]
    assert worker.refused_at == [begin + sum(pauses[: n + 1]) for n in range(39)]


class Worker:
    def __init__(self) -> None:
        self.busy = False
        self.refused_at: list[int] = []
        self.state = _native.QUEUE_NONE

    def open_queue(self, fd: int, *limits: object) -> None:
        if self.busy:
            self.refused_at.append(clock.now_ns())
            raise OSError(errno.EBUSY, "busy")
        self.state = _native.QUEUE_UP

    def queue_state(self) -> tuple[int, int, int]:
        return self.state, _native.QUEUE_CLOSED, 0


def test_a_worker_that_is_replaced_keeps_its_engines_name(ram: Ram, clean: None) -> None:
    """A report that is made before the next one is ready must not say that the CPU decided."""
    with Coordinator(engine="dsa", wq=["model:"]) as coordinator:
        block = coordinator.attach(ram.source)
        kernel = coordinator.kernel
        for _ in range(3):
            os.kill(coordinator.worker_pids[0], 9)
            job = threading.Thread(target=coordinator.scan, args=(block,))
            job.start()
            seen = set()
            while job.is_alive():
                [report] = coordinator.statistics()
                seen.add((coordinator.engine, coordinator.kernel, report.queue, report.why))
            job.join()
            assert seen <= {("dsa", kernel, "model:", "named with --wq")}
        assert coordinator.workers_replaced == 3


@pytest.mark.parametrize("engine", ["dsa", "cpu"])
def test_a_deadline_before_the_start_names_what_was_asked_for(
    ram: Ram, clean: None, engine: str
) -> None:
    wqs = ["model:"] * 2 if engine == "dsa" else []
    report = scan(ram.source, engine=engine, wq=wqs, deadline=1e-9)  # type: ignore[arg-type]
    assert report.total.undecided == 1200
    assert (report.engine, report.channels) == (engine, len(wqs) or 1)
