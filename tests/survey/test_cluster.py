"""Batches, retries and blame, with workers that are made up; test_dask.py meets the real ones."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from pagecheck.errors import EngineError, PeerError, UsageError
from pagecheck.model import Counts
from pagecheck.survey import cluster
from pagecheck.survey.cluster import ClusterRunner
from pagecheck.survey.scheduler import Answer
from pagecheck.survey.values import Failed, Found, Options, Piece, Target
from tests.support.clock import MovedClock

MIB = 1 << 20
PLAIN = Options()


class Workers:
    """In a Connection's place: answers at once, or as `fate` says of the batch's files."""

    def __init__(self, threads: int = 2) -> None:
        self.address = "tcp://made-up"
        self.workers = self.threads = threads
        self.batches: list[list[str]] = []
        self.most_out = 0
        self.seen: list[Target] = []
        self.dropped: list[int] = []
        self.avoided: list[frozenset[str]] = []
        self.fate: Callable[[list[str]], str] = lambda _names: "answered"
        self.tick: Callable[[], None] = lambda: None
        self._out: dict[int, Sequence[Piece]] = {}

    def open(self) -> None:
        pass

    def begin(self, targets: Sequence[Target], watch: Callable[[], None]) -> None:
        self.seen = list(targets)
        watch()

    def submit(
        self, number: int, pieces: Sequence[Piece], avoid: frozenset[str] = frozenset()
    ) -> None:
        self.avoided.append(avoid)
        self._out[number] = pieces
        self.batches.append([each.target.path for each in pieces])
        self.most_out = max(self.most_out, len(self._out))

    def drop(self, number: int) -> None:
        self.dropped.append(number)
        del self._out[number]

    def next(self) -> Answer | None:
        for number, pieces in self._out.items():
            fate = self.fate([each.target.path for each in pieces])
            if fate != "silent":
                del self._out[number]
                if fate == "answered":
                    return Answer(number, [Found(p, Counts(1, zero=1), 0, 0.0) for p in pieces])
                worker = None if fate == "died" else f"tcp://{len(self.batches)}"
                return Answer(number, None, fate, died=fate == "died", worker=worker)
        self.tick()
        return None

    def close(self) -> None:
        pass


def files(*names: str, size: int = 4096) -> Iterator[Piece]:
    for name in names:
        yield Piece(Target(name, "file", size, size, "1:2"), 0, size)


def results(workers: Workers, pieces: Iterator[Piece], options: Options = PLAIN) -> dict[str, str]:
    """By name: what became of it; each is there once."""
    runner = ClusterRunner(options, cluster="tcp://made-up")
    runner._connection = workers  # type: ignore[assignment]
    found: dict[str, str] = {}
    with runner:
        for each in runner.run(pieces, lambda: None):
            assert each.piece.target.path not in found
            found[each.piece.target.path] = each.error if isinstance(each, Failed) else "zero"
    return found


def test_few_batches_are_out_and_small_files_travel_together() -> None:
    workers = Workers()
    names = [str(number) for number in range(10_000)]
    pulled = Counter[int]()

    def pieces() -> Iterator[Piece]:
        for piece in files(*names):
            pulled[len(workers.batches)] += 1
            yield piece

    assert results(workers, pieces()) == dict.fromkeys(names, "zero")
    assert workers.most_out == 2 * cluster.AHEAD
    assert len(workers.batches[0]) == 1  # so that everybody has some at once
    assert max(map(len, workers.batches)) == 512
    assert len(workers.batches) < 10_000 / 40
    assert max(pulled.values()) <= 512


def test_large_files_are_shared_evenly() -> None:
    workers = Workers()
    names = [str(number) for number in range(64)]
    results(workers, files(*names, size=64 * MIB))
    assert max(map(len, workers.batches)) <= 64 / 2 / 4


def test_the_first_files_are_looked_for_on_every_worker() -> None:
    workers = Workers()
    results(workers, files(*map(str, range(100))))
    assert [each.path for each in workers.seen] == [str(number) for number in range(cluster.SEEN)]


def test_a_batch_whose_worker_died_once_is_answered() -> None:
    workers = Workers()
    deaths: list[str] = []

    def fate(names: list[str]) -> str:
        if "3" in names and not deaths:
            deaths.append("3")
            return "died"
        return "answered"

    workers.fate = fate
    names = [str(number) for number in range(200)]
    assert results(workers, files(*names)) == dict.fromkeys(names, "zero")
    assert deaths


def test_a_file_that_kills_three_times_is_an_error_and_its_neighbours_are_not() -> None:
    workers = Workers()
    deaths: list[list[str]] = []

    def fate(names: list[str]) -> str:
        if "150" in names:
            deaths.append(names)
            return "died"
        return "answered"

    workers.fate = fate
    names = [str(number) for number in range(200)]
    found = results(workers, files(*names))
    assert found.pop("150") == "each worker that checked it died, 3 times"
    assert found == dict.fromkeys([n for n in names if n != "150"], "zero")
    assert len(deaths) == 3
    assert deaths[-1] == ["150"]


def test_what_waits_beside_a_killer_is_not_blamed() -> None:
    """Dask counts a death for all that its scheduler had sent to that worker."""
    workers = Workers()
    count = Counter[str]()

    def fate(names: list[str]) -> str:
        count.update(names)
        beside = len(workers._out) > 1  # the killer's neighbour is sent to the same worker
        return "died" if "killer" in names or ("beside" in names and beside) else "answered"

    workers.fate = fate
    found = results(workers, files("killer", "beside", size=cluster.BATCH_BYTES))
    assert found["beside"] == "zero"
    assert "died" in found["killer"]
    assert count["killer"] == 3


def test_an_error_of_one_worker_is_not_the_end() -> None:
    workers = Workers()
    workers.fate = lambda names: "no room in /dev/shm" if "7" in names else "answered"
    found = results(workers, files(*map(str, range(50))))
    assert found.pop("7") == "no room in /dev/shm"
    assert set(found.values()) == {"zero"}
    assert [len(each) for each in workers.avoided if each] == [1, 2]  # another one each time


def test_many_files_that_kill_cost_only_themselves() -> None:
    workers = Workers()
    workers.fate = lambda names: "died" if set(names) & set(killers) else "answered"
    names = [str(number) for number in range(2000)]
    killers = names[5::100]
    found = results(workers, files(*names))
    assert {found.pop(name) for name in killers} == {"each worker that checked it died, 3 times"}
    assert set(found.values()) == {"zero"}


def test_where_no_worker_can_check_the_survey_ends() -> None:
    workers = Workers()
    workers.fate = lambda _names: "worker b: no kernel"
    with pytest.raises(EngineError, match=r"tcp://made-up: no worker can check: worker b: no ker"):
        results(workers, files(*map(str, range(500))))
    assert len(workers.batches) < 40


def test_a_worker_that_is_silent_for_long_is_given_up(moved_clock: MovedClock) -> None:
    workers = Workers()
    workers.tick = lambda: moved_clock.sleep_s(50)
    workers.fate = lambda names: "silent" if "5" in names else "answered"
    found = results(workers, files(*map(str, range(20))))
    assert found.pop("5") == "its worker has not answered for 600 s"
    assert set(found.values()) == {"zero"}
    assert len(workers.dropped) == 1


def test_a_worker_that_reads_slowly_on_request_is_waited_for(moved_clock: MovedClock) -> None:
    workers = Workers()
    workers.tick = lambda: moved_clock.sleep_s(50)
    workers.fate = lambda names: "silent" if "5" in names else "answered"
    found = results(workers, files("4", "5"), Options(max_rate=cluster.PIECE_BYTES))
    assert found == {"4": "zero", "5": "its worker has not answered for 602 s"}


def test_where_all_are_silent_the_survey_ends(moved_clock: MovedClock) -> None:
    workers = Workers()
    workers.tick = lambda: moved_clock.sleep_s(50)
    workers.fate = lambda _names: "silent"
    with pytest.raises(PeerError, match="no worker has answered for 600 s"):
        results(workers, files(*map(str, range(20))))


def test_an_answer_that_comes_after_all_counts_nothing() -> None:
    workers = Workers()
    late = [Answer(77, [])]
    original = workers.next
    workers.next = lambda: late.pop() if late else original()  # type: ignore[method-assign]
    assert results(workers, files("a", "b")) == {"a": "zero", "b": "zero"}


@pytest.mark.parametrize(
    "given",
    [{}, {"cluster": "tcp://a", "workers": 1}, {"workers": 0}, {"workers": 1, "channels": 0}],
)
def test_wrong_arguments_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ClusterRunner(Options(), **given)  # type: ignore[arg-type]


def test_nothing_to_check_needs_no_worker() -> None:
    workers = Workers()
    assert results(workers, files()) == {}
    assert workers.batches == []
