"""Workers of a Coordinator that are killed before any of their calls of libc, from start to end:
every answer is right, and whole where only one of them died."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pagecheck import Coordinator
from tests.stress.budget import Budget
from tests.support.bitmaps import bits
from tests.support.faults import WORKER, Fault
from tests.support.known_ram import KnownRam
from tests.support.leftovers import nothing_left
from tests.support.processes import children_of, state_of

ROUNDS: Final = 30  # if nothing else is asked for
CALLS: Final = 60  # that a worker makes here, about
STALL_S: Final = 0.3
SIGNALS: Final = (*[signal.SIGKILL] * 8, signal.SIGTERM, signal.SIGSTOP)


@pytest.fixture(scope="module")
def ram() -> Iterator[KnownRam]:
    made = KnownRam(1024)
    yield made
    made.close()


def _work(ram: KnownRam, *, whole: bool, access: str) -> None:
    """All that workers are asked for."""
    with Coordinator(2, batch_pages=128, stall=STALL_S) as c:
        first, second = c.attach(ram.source, access=access), c.attach(ram.source)
        answer = c.check(first, ram.offsets)
        assert not (answer.zero & ~ram.zero).any()
        assert answer.decided.all() or not whole
        assert (answer.zero == ram.zero & answer.decided).all()
        c.detach(second)
        found = c.scan(first).blocks[0]
        zero, normal = bits(found.zero, ram.pages), bits(found.normal, ram.pages)
        assert not (zero & ~ram.zero).any()
        assert not (normal & ram.zero).any()
        assert (zero | normal).all() or not whole
        assert found.counts.undecided == (~(zero | normal)).sum()


class _Continuing:
    """Workers that stopped run on after they were replaced, or would have been."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(3 * STALL_S):
            for pid in children_of(os.getpid()):
                if state_of(pid) == "T":
                    os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()


def test_kill_at_any_call(
    ram: KnownRam,
    tmp_path: Path,
    budget: Budget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = happened = 0
    for seed in budget.seeds(ROUNDS):
        rounds += 1
        dice = random.Random(seed)
        times = dice.choice([1, 1, 2])
        fault = Fault(
            tmp_path / "fault", WORKER, dice.randrange(CALLS), dice.choice(SIGNALS), times
        )
        with monkeypatch.context() as patched, nothing_left(5), _Continuing():
            for name, value in fault.environment().items():
                patched.setenv(name, value)
            try:
                _work(ram, whole=times == 1, access=dice.choice(["map", "read"]))
            except BaseException as error:
                error.add_note(f"--seed {seed} --worlds 1: {fault}")
                raise
        happened += fault.happened()
    assert happened >= rounds // 2
