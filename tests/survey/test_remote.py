"""What a worker of a cluster says of itself and of the files that it sees."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck._version import __version__
from pagecheck.errors import EngineError
from pagecheck.model import Counts
from pagecheck.survey import remote
from pagecheck.survey.check import Checker
from pagecheck.survey.remote import Job, why_another
from pagecheck.survey.values import Found, Options, Piece, Target, identity_of
from pagecheck.survey.versions import differences, require_pagecheck
from tests.support.leftovers import nothing_left
from tests.support.waiting import Background

PAGE = 4096


def target_of(path: Path) -> Target:
    status = os.stat(path)
    return Target(str(path), "file", status.st_size, None, identity_of(status))


@pytest.fixture
def job() -> Iterator[Job]:
    made = Job(os.urandom(8).hex(), __version__, Options(), 1, False)
    yield made
    asyncio.run(remote.end(made.name))


@pytest.fixture
def ram(shm_folder: Path) -> Target:
    path = shm_folder / "ram"
    path.write_bytes(bytes(PAGE) + b"x" * PAGE)
    return target_of(path)


def test_a_batch_is_answered_in_its_order_and_checkers_end(job: Job, ram: Target) -> None:
    with nothing_left(2):
        pieces = [Piece(ram, PAGE, PAGE), Piece(ram, 0, PAGE)]
        found = [each for each in remote.answer(job, pieces) if isinstance(each, Found)]
        assert [each.counts.zero for each in found] == [0, 1]
        assert [each.piece for each in found] == pieces
        asyncio.run(remote.end(job.name))


def test_threads_begin_at_queues_of_their_own(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    queues: list[int] = []

    class Fake:
        is_lost = False

        def __init__(self, *_given: object, queue: int) -> None:
            queues.append(queue)
            both.wait()

        def close(self) -> None:
            pass

    def take() -> None:
        with checkers.taken():
            pass

    monkeypatch.setattr(remote, "Checker", Fake)
    checkers = remote.Checkers(job)
    for each in [Background(take), Background(take)]:
        each.result()
    checkers.close()
    assert len(set(queues)) == 2


def test_a_checker_passes_its_queue_on() -> None:
    with Checker(queue=2) as made:
        assert made.coordinator.settings is not None
        assert made.coordinator.settings.queue == 2


def test_workers_that_are_lost_cost_no_other_file(
    job: Job, ram: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        is_lost = False

        def __init__(self, *_given: object, **_more: object) -> None:
            pass

        def check(self, piece: Piece, _moved: object) -> Found:
            if self.is_lost:
                raise EngineError("no channel is left")
            self.is_lost = not piece.start  # the file's first page kills
            return Found(piece, Counts(1, undecided=int(self.is_lost)), 0, 0.1)

        def close(self) -> None:
            pass

    monkeypatch.setattr(remote, "Checker", Fake)
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    killer, other = Piece(ram, 0, PAGE), Piece(ram, PAGE, PAGE)
    for batch in [other, killer, other], [killer], [other]:
        found = [each for each in remote.answer(job, batch) if isinstance(each, Found)]
        assert [each.piece for each in found if each.counts.undecided] == [
            each for each in batch if each is killer
        ]
        assert len(found) == len(batch)


def test_after_its_end_a_survey_gets_no_answer(job: Job, ram: Target) -> None:
    asyncio.run(remote.end(job.name))
    with pytest.raises(EngineError, match="the survey has ended"):
        remote.answer(job, [Piece(ram, 0, PAGE)])


def test_another_version_gets_no_answer(
    job: Job, ram: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    with pytest.raises(EngineError, match=rf"has pagecheck {__version__}, not 0\.0\.1"):
        remote.answer(job._replace(version="0.0.1"), [Piece(ram, 0, PAGE)])


def test_the_same_file_is_the_same_on_another_mount(ram: Target) -> None:
    assert why_another(ram) is None


def test_another_file_of_that_name_is_refused(job: Job, ram: Target) -> None:
    other = Path(ram.path).with_name("other")
    other.write_bytes(bytes(2 * PAGE))
    other.rename(ram.path)
    (found,) = remote.answer(job, [Piece(ram, 0, PAGE)])
    assert not isinstance(found, Found)
    assert found.error.startswith("is another file on worker ")


def test_a_file_that_is_not_there_is_said(ram: Target) -> None:
    Path(ram.path).unlink()
    assert str(why_another(ram)).endswith("No such file or directory")
    gone = ram._replace(kind="snapshot")
    assert str(why_another(gone)).startswith("not as it was found, on worker ")


def test_an_object_is_the_same_everywhere() -> None:
    assert why_another(Target("s3://bucket/ram", "object", PAGE, None, "etag")) is None


def test_local_workers_are_not_asked(job: Job, ram: Target) -> None:
    """A file that is written meanwhile is a row that is not settled, as without a cluster."""
    with open(ram.path, "r+b") as file:
        file.write(b"y")
    assert why_another(ram) is not None
    (found,) = remote.answer(job._replace(same_files=True), [Piece(ram, 0, 2 * PAGE)])
    assert isinstance(found, Found)
    assert not found.settled
    assert found.counts.normal == 2


def seen(pagecheck: str | None, python: str, kernel: str) -> dict[str, dict[str, str | None]]:
    host: dict[str, str | None] = {"python": f"{python}.final.0", "OS-release": kernel}
    return {"packages": {"pagecheck": pagecheck}, "host": host}


def test_versions_that_differ_are_said_in_a_line_each() -> None:
    versions = {"client": seen("1.2", "3.11.7", "6.1"), "workers": {}}
    for number in range(5):
        versions["workers"][f"tcp://w{number}"] = seen("1.2", "3.11.7", "6.1")  # type: ignore[assignment]
    require_pagecheck("tcp://s", versions)
    assert list(differences("tcp://s", versions)) == []
    for number in range(1, 5):
        versions["workers"][f"tcp://w{number}"] = seen("1.2", "3.12.0", "5.15")  # type: ignore[assignment]
    assert list(differences("tcp://s", versions)) == [
        "tcp://s: Python 3.11.7 here, but Python 3.12.0 on tcp://w1, tcp://w2, tcp://w3 and 1 more",
        "tcp://s: kernel 6.1 here, but kernel 5.15 on tcp://w1, tcp://w2, tcp://w3 and 1 more",
    ]
    versions["workers"]["tcp://w0"] = seen("1.1", "3.11.7", "6.1")  # type: ignore[assignment]
    versions["workers"]["tcp://w1"] = seen(None, "3.11.7", "6.1")  # type: ignore[assignment]
    line = (
        r"^tcp://s: pagecheck 1\.2 here, but no pagecheck on tcp://w1; pagecheck 1\.1 on tcp://w0; "
        "install the same on all of them$"
    )
    with pytest.raises(EngineError, match=line):
        require_pagecheck("tcp://s", versions)
