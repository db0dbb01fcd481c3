"""A worker that was killed and does not end may write yet, to the files that it had."""

from pathlib import Path

import pytest

import pagecheck
from pagecheck import Coordinator
from pagecheck.child.spawn import Process
from pagecheck.errors import OutputError
from pagecheck.snapshot.saving import Taking
from tests.support.processes import kill
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Workers that are seen to have ended by nobody."""
    pids: set[int] = set()
    wait_ended, poll = Process.wait_ended, Process.poll
    monkeypatch.setattr(
        Process, "wait_ended", lambda self, until: self.pid not in pids and wait_ended(self, until)
    )
    monkeypatch.setattr(Process, "poll", lambda self: None if self.pid in pids else poll(self))
    return pids


def test_of_an_earlier_job(tmp_path: Path, stuck: set[int]) -> None:
    source = sparse_file(tmp_path / "guest.ram", 64, {5: b"x" * PAGE})
    with Coordinator(1) as coordinator:
        stuck.add(coordinator.worker_pids[0])
        kill(coordinator.worker_pids[0])
        with pytest.raises(OutputError, match="may write yet"):
            pagecheck.save(source, tmp_path / "one", coordinator=coordinator)
        assert coordinator.may_yet_write
        pagecheck.save(source, tmp_path / "two", coordinator=coordinator)
        pagecheck.verify(tmp_path / "two")
        stuck.clear()
        assert not coordinator.may_yet_write


def test_of_this_save(tmp_path: Path, stuck: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not published."""
    source = sparse_file(tmp_path / "guest.ram", 64, {5: b"x" * PAGE})
    copy = Taking.prepare

    def prepare(self: Taking, *stacks: object) -> None:
        copy(self, *stacks)  # type: ignore[arg-type]
        stuck.add(coordinator.worker_pids[0])
        kill(coordinator.worker_pids[0])

    monkeypatch.setattr(Taking, "prepare", prepare)
    with Coordinator(1) as coordinator:
        with pytest.raises(OutputError, match="was left behind, and may write yet"):
            pagecheck.save(source, tmp_path / "one", coordinator=coordinator)
        stuck.clear()
        assert not coordinator.may_yet_write
    assert [each.name for each in tmp_path.iterdir()] == ["guest.ram"]
