"""Which queue a worker takes, and what it does when the queue fails; the queues are made up."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecheck.errors import EngineError
from pagecheck.hw import dsa, queues
from pagecheck.hw.devices import WorkQueue
from pagecheck.native import _native
from tests.support.clock import MovedClock


class FakeWorker:
    """Takes every queue, unless told otherwise."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.refuse: Callable[[str], OSError | None] = lambda _submit: None
        self.state = _native.QUEUE_NONE
        self.end = _native.QUEUE_LOST
        self.states: list[bytes] = []

    def open_queue(
        self,
        fd: int,
        submit: str,
        size: int,
        batch: int,
        transfer: int,
        deadline_ns: int,
        state_fd: int,
    ) -> None:
        error = self.refuse(submit)
        if error is not None:
            raise error
        self.opened.append((submit, batch))
        if state_fd >= 0:
            self.states.append(os.pread(state_fd, 100, 0))
        self.state = _native.QUEUE_UP

    def open_model(self, *arguments: object) -> None:
        self.opened.append(("model", 0))
        self.state = _native.QUEUE_UP

    def queue_state(self) -> tuple[int, int, int]:
        return self.state, self.end, 0

    def close_queue(self) -> None:
        self.state = _native.QUEUE_NONE


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Makes queues that discovery finds; their nodes are files."""
    found: list[WorkQueue] = []

    def add(name: str, **fields: object) -> str:
        path = tmp_path / name
        path.touch()
        queue = WorkQueue(
            name, str(path), "dsa0", "shared", 128, 127, 1024, 2 << 20, 0x100, -1, "enqcmd", True,
            None, None,
        )  # fmt: skip
        found.append(queue._replace(**fields))
        return str(path)

    def find(path: str) -> WorkQueue:
        for queue in reversed(found):  # the latest of a name
            if queue.path == path:
                return queue
        raise EngineError(f"{path}: sysfs knows no such work queue")

    monkeypatch.setattr(dsa, "DEVICES", str(tmp_path))
    monkeypatch.setattr(queues, "usable_queues", lambda: [q for q in found if not q.unusable])
    monkeypatch.setattr(queues, "list_devices", lambda: found)
    monkeypatch.setattr(queues, "find_queue", find)
    monkeypatch.setattr(_native, "numa_node", lambda: 1)
    return add


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


def opened(worker: FakeWorker, wqs: list[str], index: int = 0, engine: str = "dsa") -> dsa.Picked:
    return dsa.DsaEngine(worker, 1).open(engine, wqs, index, fallback=False)  # type: ignore[arg-type]


def test_round_robin(worker: FakeWorker, host: Callable[..., str]) -> None:
    paths = [host(f"wq0.{n}") for n in range(3)]
    assert [opened(worker, paths, n).queue for n in range(4)] == [*paths, paths[0]]


def test_those_of_this_node_come_first(worker: FakeWorker, host: Callable[..., str]) -> None:
    far, near = host("wq0.0", numa_node=0), host("wq2.0", numa_node=1)
    assert {opened(worker, [far, near], n).queue for n in range(4)} == {near}
    assert opened(worker, [], 0).queue == near


def test_a_dedicated_queue_in_use_is_passed_over(
    worker: FakeWorker, host: Callable[..., str]
) -> None:
    first, second = host("wq0.0", submit="movdir64b", mode="dedicated"), host("wq0.1")
    busy = OSError(errno.EBUSY, "busy")
    worker.refuse = lambda submit: busy if submit == "movdir64b" else None
    assert opened(worker, [first, second]).queue == second
    with pytest.raises(EngineError, match=r"wq0\.0: in use by another process"):
        opened(worker, [first])


def test_a_named_queue_must_work(worker: FakeWorker, host: Callable[..., str]) -> None:
    bad, good = host("wq0.0", unusable="state is disabled; enable it"), host("wq0.1")
    with pytest.raises(EngineError, match=r"wq0\.0: state is disabled; enable it"):
        opened(worker, [bad, good])
    assert opened(worker, []).queue == good


@pytest.mark.parametrize("engine", ["auto", "dsa"])
def test_a_queue_for_write_must_be_named(
    worker: FakeWorker, host: Callable[..., str], engine: str
) -> None:
    path = host("wq0.0", submit="write", batches=False)
    named = opened(worker, [path])
    assert (named.queue, named.submit, worker.opened) == (path, "write", [("write", 0)])
    if engine == "auto":
        picked = opened(worker, [], engine="auto")
        assert picked.engine == "cpu"
        assert "name it with --wq" in picked.why
    else:
        with pytest.raises(EngineError, match="name it with --wq"):
            opened(worker, [])


@pytest.mark.parametrize(("version", "batch"), [(0x100, 0), (0x200, 1024)])
def test_a_refused_mapping_leaves_write(
    worker: FakeWorker, host: Callable[..., str], version: int, batch: int
) -> None:
    path = host("wq0.0", version=version)
    refused = PermissionError(errno.EPERM, "Operation not permitted")
    worker.refuse = lambda submit: refused if submit != "write" else None
    assert opened(worker, [path]).submit == "write"
    assert worker.opened == [("write", batch)]
    assert opened(worker, [], engine="auto").engine == "cpu"


def test_a_failed_open_closes_its_descriptor(worker: FakeWorker, host: Callable[..., str]) -> None:
    path = host("wq0.0")
    worker.refuse = lambda _submit: OSError(errno.ENOMEM, "no memory")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(EngineError, match="no memory"):
        opened(worker, [path])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def engine(worker: FakeWorker, moved_clock: MovedClock) -> dsa.DsaEngine:
    """An engine whose queue is up."""
    made = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    made.open("dsa", ["model:"], 0, fallback=False)
    return made


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("end", "most"),
    [
        (_native.QUEUE_LATE, 10 * SECOND),
        (_native.QUEUE_DISABLED, 10 * SECOND),
        (_native.QUEUE_LOST, 300 * SECOND),
        (_native.QUEUE_BROKEN, 300 * SECOND),
        (_native.QUEUE_REFUSED, 300 * SECOND),
    ],
)
def test_reopening_doubles_its_pauses_and_never_ends(
    worker: FakeWorker, moved_clock: MovedClock, engine: dsa.DsaEngine, end: int, most: int
) -> None:
    """Whatever ended it; one that is only busy, or not there, is tried more often."""
    assert engine.is_running
    assert engine.tend() == dsa.NEVER_NS
    pauses = []
    for _ in range(100):
        worker.state, worker.end = _native.QUEUE_DRAINING, _native.QUEUE_LOST
        assert not engine.is_running
        wanted = engine.tend()
        assert wanted == moved_clock.ns + dsa.LOOK_NS
        worker.state, worker.end = _native.QUEUE_NONE, end  # now it is known
        wanted = engine.tend()
        pauses.append(wanted - moved_clock.ns)
        moved_clock.ns = wanted - 1
        assert engine.tend() == wanted
        moved_clock.ns = wanted
        engine.tend()
        assert engine.is_running
    assert pauses == [min(10_000_000 << n, most) for n in range(100)]


def test_a_queue_that_is_not_there_is_tried_for_ever(
    worker: FakeWorker, moved_clock: MovedClock, host: Callable[..., str]
) -> None:
    path = host("wq0.0")
    engine = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    engine.open("dsa", [path], 0, fallback=False)
    worker.state, worker.end = _native.QUEUE_NONE, _native.QUEUE_LOST
    worker.refuse = lambda _submit: OSError(errno.ENXIO, "gone")
    tries = []
    wanted = engine.tend()
    for _ in range(60):
        moved_clock.ns = wanted
        wanted = engine.tend()
        tries.append(wanted - moved_clock.ns)
    assert tries == [min(20_000_000 << n, 10 * SECOND) for n in range(60)]
    worker.refuse = lambda _submit: None
    moved_clock.ns = wanted
    engine.tend()
    assert engine.is_running


def test_a_queue_is_opened_again_with_its_present_limits(
    worker: FakeWorker, moved_clock: MovedClock, host: Callable[..., str]
) -> None:
    """Disabling a queue sets most of its limits back."""
    path = host("wq0.0", max_batch=1024)
    engine = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    engine.open("dsa", [path], 0, fallback=False)
    host("wq0.0", max_batch=32)
    worker.state, worker.end = _native.QUEUE_NONE, _native.QUEUE_DISABLED
    moved_clock.ns = engine.tend()
    engine.tend()
    assert worker.opened == [("enqcmd", 1024), ("enqcmd", 32)]


def test_a_queue_that_is_no_longer_usable_is_not_opened(
    worker: FakeWorker, moved_clock: MovedClock, host: Callable[..., str]
) -> None:
    path = host("wq0.0")
    engine = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    engine.open("dsa", [path], 0, fallback=False)
    host("wq0.0", unusable="state is disabled; enable it")
    worker.state, worker.end = _native.QUEUE_NONE, _native.QUEUE_DISABLED
    moved_clock.ns = engine.tend()
    moved_clock.ns = engine.tend()
    assert not engine.is_running
    host("wq0.0")
    engine.tend()
    assert engine.is_running


def test_the_core_gets_the_attribute_that_tells_full_from_disabled(
    worker: FakeWorker, host: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("enabled\n")
    monkeypatch.setattr(
        queues, "open_state", lambda queue: os.open(tmp_path / "state", os.O_RDONLY)
    )
    before = len(os.listdir("/proc/self/fd"))
    opened(worker, [host("wq0.0")])
    assert worker.states == [b"enabled\n"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_queue_that_was_steady_starts_with_the_first_pause(
    worker: FakeWorker, moved_clock: MovedClock, engine: dsa.DsaEngine
) -> None:
    for _ in range(24):
        moved_clock.ns += dsa.STEADY_NS + 1
        worker.state = _native.QUEUE_NONE
        wanted = engine.tend()
        assert wanted - moved_clock.ns == dsa.FIRST_PAUSE_NS
        moved_clock.ns = wanted
        engine.tend()
        assert engine.is_running


def test_a_wedged_queue_is_left_alone(
    worker: FakeWorker, moved_clock: MovedClock, engine: dsa.DsaEngine
) -> None:
    worker.state = _native.QUEUE_DRAINING
    engine.tend()
    moved_clock.ns += dsa.DRAIN_NS + 1
    assert engine.tend() == dsa.NEVER_NS


def test_a_busy_queue_is_tried_again_when_the_cpu_stands_in(
    worker: FakeWorker, host: Callable[..., str]
) -> None:
    path = host("wq0.0", mode="dedicated", submit="movdir64b")
    worker.refuse = lambda _submit: OSError(errno.EBUSY, "busy")
    engine = dsa.DsaEngine(worker, 1)  # type: ignore[arg-type]
    assert engine.open("dsa", [path], 0, fallback=True).engine == "cpu"
    assert engine.tend() < dsa.NEVER_NS
