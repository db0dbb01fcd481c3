"""Threads that check, where files do not come and workers do not start."""

import queue
import threading
from collections.abc import Iterator

import pytest

from pagecheck.errors import EngineError, PagecheckError, ResourceError
from pagecheck.model import Counts
from pagecheck.survey import local
from pagecheck.survey.local import LocalRunner
from pagecheck.survey.values import Failed, Found, Options, Piece, Target
from tests.support.waiting import Background, wait_for


def pieces(count: int) -> list[Piece]:
    targets = (Target(f"/{number}", "file", 4096, 4096, "1") for number in range(count))
    return [Piece(target, 0, 4096) for target in targets]


class Fake:
    """A checker in the place of one with workers."""

    silent: frozenset[str] = frozenset()
    errors: dict[str, PagecheckError]
    fails_to_start = False
    is_lost = False
    loses: frozenset[str] = frozenset()
    made = 0
    queues: list[int]
    asked = threading.Event()
    released = threading.Event()

    def __init__(self, _options: Options, *, queue: int) -> None:
        type(self).made += 1
        self.queues.append(queue)
        if self.fails_to_start:
            raise EngineError("no worker starts")

    def check(self, piece: Piece, _moved: object) -> Found:
        if piece.target.path in self.errors:
            raise self.errors.pop(piece.target.path)
        if piece.target.path in self.silent:
            self.asked.set()
            assert self.released.wait(60)
        if piece.target.path in self.loses:
            self.is_lost = True
            return Found(piece, Counts(1, undecided=1), 0, 0.1)
        return Found(piece, Counts(1, normal=1), 4096, 0.1)

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    made = type("Made", (Fake,), {"errors": {}, "made": 0, "queues": []})
    made.asked, made.released = threading.Event(), threading.Event()
    monkeypatch.setattr(local, "Checker", made)
    yield made
    made.released.set()


def run(runner: LocalRunner, count: int) -> list[Found | Failed]:
    with runner:
        found = list(runner.run(pieces(count), lambda: None))
    assert sorted(each.piece.target.path for each in found) == sorted(
        piece.target.path for piece in pieces(count)
    )
    return found


def test_a_thread_that_waits_is_left_and_replaced(fake: type[Fake]) -> None:
    fake.silent = frozenset({"/0", "/7"})
    found = run(LocalRunner(channels=2, patience_s=0.3), 20)
    failed = [each for each in found if isinstance(each, Failed)]
    assert {each.piece.target.path for each in failed} == fake.silent
    assert {each.error for each in failed} == {"its file system did not answer for 0.3 s"}


def test_each_thread_begins_at_a_queue_of_its_own(fake: type[Fake]) -> None:
    fake.silent = frozenset({"/0", "/1", "/2"})
    with LocalRunner(channels=3) as runner:
        found = runner.run(pieces(3), lambda: None)
        answers = Background(lambda: list(found))
        wait_for(lambda: len(fake.queues) == 3, "three checkers")
        fake.released.set()
        answers.result()
    assert sorted(fake.queues) == [0, 1, 2]


def test_where_nothing_answers_nothing_more_is_tried(fake: type[Fake]) -> None:
    fake.silent = frozenset(piece.target.path for piece in pieces(100))
    found = run(LocalRunner(channels=2, patience_s=0.3), 100)
    errors = [each.error for each in found if isinstance(each, Failed)]
    assert len(errors) == 100
    waited = [error for error in errors if not error.startswith("not tried, since")]
    assert 4 <= len(waited) <= 6
    assert fake.made <= 6


def test_what_was_answered_meanwhile_is_an_answer(fake: type[Fake]) -> None:
    fake.silent = frozenset({"/0", "/1"})
    results: queue.SimpleQueue[object] = queue.SimpleQueue()
    with LocalRunner(channels=1, patience_s=0.3) as runner:
        runner._results = results  # type: ignore[assignment]
        found = []
        for each in runner.run(pieces(30), lambda: None):
            found.append(each)
            if len(found) == 2:  # the thread in their place goes on
                wait_for(lambda: not results.empty(), "the next answer")
    assert sorted(int(each.piece.target.path[1:]) for each in found) == list(range(30))
    assert isinstance(found[2], Found)


def test_a_late_answer_is_not_an_answer(fake: type[Fake]) -> None:
    fake.silent = frozenset({"/0"})
    runner = LocalRunner(channels=1, patience_s=0.3)
    with runner:
        answers = runner.run(pieces(3), lambda: None)
        first = next(answers)
        assert isinstance(first, Failed)
        fake.released.set()
        assert {each.piece.target.path for each in answers} == {"/1", "/2"}


def test_new_workers_are_started_once_where_they_are_lost(fake: type[Fake]) -> None:
    fake.errors = {"/1": EngineError("no channel is left")}
    assert all(isinstance(each, Found) for each in run(LocalRunner(channels=1), 3))
    assert fake.made == 2


def test_a_file_that_kills_workers_is_undecided_and_the_others_are_not(fake: type[Fake]) -> None:
    fake.loses = frozenset({"/1"})
    found = run(LocalRunner(channels=1), 4)
    undecided = {each.piece.target.path for each in found if each.counts.undecided}
    assert undecided == {"/1"}
    assert fake.made == 3  # one for a second try, one for the next file


def test_a_shortage_that_stays_is_the_file_s(fake: type[Fake]) -> None:
    fake.errors = {"/0": ResourceError("/0: no room")}
    (found,) = run(LocalRunner(channels=1), 1)
    assert isinstance(found, Failed)
    assert found.error == "no room"


def test_without_workers_it_ends(fake: type[Fake]) -> None:
    fake.fails_to_start = True
    with pytest.raises(EngineError, match="no worker starts"):
        run(LocalRunner(channels=2), 5)


def test_pieces_are_taken_as_they_are_needed(fake: type[Fake]) -> None:
    taken = 0

    def endless() -> Iterator[Piece]:
        nonlocal taken
        for piece in pieces(10_000):
            taken += 1
            yield piece

    with LocalRunner(channels=1) as runner:
        answers = runner.run(endless(), lambda: None)
        next(answers)
        assert taken <= 1 + local.AHEAD
        answers.close()


def test_an_interrupt_ends_it(fake: type[Fake]) -> None:
    fake.silent = frozenset({"/0"})

    def watch() -> None:
        if fake.asked.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), LocalRunner(channels=1) as runner:
        list(runner.run(pieces(1), watch))
