"""Scans with the workers of a coordinator that stays: none is started, nothing is left."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pagecheck import Coordinator, aside, oneshot, scan
from pagecheck.errors import OutputError, SourceError, UsageError
from tests.support.waiting import wait_for


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes((bytes(4096) + b"x" * 4096) * 100)
    return path


def open_fds() -> list[str]:
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(path) for path in paths if os.path.lexists(path))


def names_of(c: Coordinator) -> list[str]:
    prefix = c.segment_names[0].strip("/").rpartition("-")[0]
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith(prefix))


def test_no_process_is_started_and_nothing_is_left(ram: Path, started: list[int]) -> None:
    with Coordinator(2) as c:
        first = scan(ram, coordinator=c)
        before, names = open_fds(), names_of(c)
        for _ in range(3):
            report = scan(ram, coordinator=c)
            assert (report.total.zero, report.total.normal) == (100, 100)
            assert bytes(report.blocks[0].zero) == bytes(first.blocks[0].zero)
        assert len(started) == report.channels == 2
        del report
        assert names
        assert (len(open_fds()), names_of(c)) == (len(before), names)
        assert not [name for name in before if name == str(ram)]
        for pid in c.worker_pids:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert str(ram) not in links
    assert bytes(first.blocks[0].zero)[0] == 0b01010101  # as long as it lives


def test_it_is_the_answer_of_a_scan_by_itself(ram: Path, tmp_path: Path) -> None:
    options = {"offset": 8192, "length": 40 << 12, "page_size": 8192, "holes": "read"}
    alone = scan(ram, **options, out=tmp_path / "a", channels=1, batch_pages=8)
    with Coordinator(1, batch_pages=8) as c:
        warm = scan(ram, **options, out=tmp_path / "b", coordinator=c)
    assert warm.total == alone.total
    assert warm._replace(seconds=0, startup_seconds=0, blocks=(), workers=()) == alone._replace(
        seconds=0, startup_seconds=0, blocks=(), workers=()
    )
    for name in ("ram.zero", "ram.normal"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "choice",
    [
        *({"engine": "cpu"}, {"wq": ["model:"]}, {"fallback": True}, {"kernel": "portable"}),
        *({"channels": 1}, {"batch_pages": 1}, {"nice": 1}, {"stall": 1.0}),
    ],
)
def test_what_the_coordinator_chose_is_not_chosen_again(
    ram: Path, choice: dict[str, object]
) -> None:
    (name,) = choice
    with Coordinator(engine="none") as c:
        with pytest.raises(UsageError, match=f"^{name}: is the coordinator's to choose"):
            scan(ram, coordinator=c, **choice)
        assert scan(ram, coordinator=c, wq=[]).total.normal == 200


def test_a_mistake_leaves_the_coordinator_as_it_was(ram: Path, started: list[int]) -> None:
    with Coordinator(1) as c:
        before = open_fds()
        for source, options in ((f"{ram}.none", {}), (ram, {"offset": 1}), (ram, {"out": ram})):
            with pytest.raises((SourceError, UsageError, OutputError)):
                scan(source, coordinator=c, **options)
        with pytest.raises(SourceError):
            scan("/dev/null", coordinator=c)
        assert open_fds() == before
        assert scan(ram, coordinator=c).total.zero == 100
    assert len(started) == 1
    with pytest.raises(UsageError, match="is closed"):
        scan(ram, coordinator=c)


def test_several_at_once(ram: Path, started: list[int]) -> None:
    with Coordinator(2) as c, ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(scan, ram, coordinator=c) for _ in range(12)]
        assert {job.result().total.zero for job in jobs} == {100}
    assert len(started) == 2


def test_a_worker_that_died_in_between_is_replaced(ram: Path, started: list[int]) -> None:
    with Coordinator(1) as c:
        scan(ram, coordinator=c)
        os.kill(c.worker_pids[0], signal.SIGKILL)
        wait_for(lambda: not c.is_running, "it is dead")
        assert scan(ram, coordinator=c).total.zero == 100
        assert len(started) == 2


def test_storage_that_may_stall_is_scanned_apart_with_the_same_settings(
    ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr(oneshot, "_may_stall", lambda *_: "nfs")
    monkeypatch.setattr(aside, "scan", lambda kind, options, progress: given.append(options))
    with Coordinator(1, kernel="portable", stall=7.0) as c:
        scan(ram, coordinator=c, deadline=3.0)
    assert "coordinator" not in given[0]
    assert {"kernel": "portable", "stall": 7.0, "channels": 1, "deadline": 3.0}.items() <= (
        given[0].items()
    )
