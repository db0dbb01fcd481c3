"""Runs one world: checking threads beside a scanning one, with kills, every answer compared."""

import os
import random
import signal
import threading
from collections.abc import Callable

import numpy as np
import psutil

from pagecheck import Answer, Coordinator, Report
from pagecheck.coordinator import Block
from tests.stress.world import Truth, World
from tests.support.bitmaps import bits

PATIENCE_S = 60


class Run:
    """What the threads of one world share.

    Attributes:
        errors: what a thread met; the world failed if there is one.
        killed: SIGKILLs sent so far.
    """

    def __init__(self, world: World, truth: Truth, coordinator: Coordinator, block: Block) -> None:
        self.world = world
        self.truth = truth
        self.coordinator = coordinator
        self.block = block
        self.errors: list[BaseException] = []
        self.killed = 0
        self.scans = 0
        self._lock = threading.Lock()
        self._checking = threading.Event()

    def go(self) -> None:
        """Starts every thread, waits for them, raises the first error."""
        self._checking.set()
        scanner = self._thread(self._scan_on)
        checkers = [self._thread(lambda n=n: self._check_on(n)) for n in range(self.world.threads)]
        for thread in checkers:
            thread.join(PATIENCE_S)
        self._checking.clear()
        scanner.join(PATIENCE_S)
        if self.errors:
            raise self.errors[0]
        assert not any(t.is_alive() for t in [scanner, *checkers]), "a thread hangs"
        assert self.scans

    def _thread(self, target: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _scan_on(self) -> None:
        """Scans again and again while others check, at least once."""
        while True:
            report = self.coordinator.scan(self.block, kind=self.world.kind)  # type: ignore[arg-type]
            self._compare_scan(report)
            self.scans += 1
            if not self._checking.is_set() or not self.world.threads or self.scans >= 50:
                return

    def _check_on(self, number: int) -> None:
        dice = np.random.default_rng([self.world.seed, number])
        for _ in range(self.world.checks):
            count = int(dice.choice([0, 1, 5, 128, 129, 1500]))
            pages = dice.integers(0, self.world.pages, count)  # unordered, with duplicates
            if dice.random() < 0.3:
                pages = np.sort(pages)
            if dice.random() < 0.4:
                self._kill_one(random.Random(int(dice.integers(1 << 30))))
            offsets = pages.astype(np.uint64) * np.uint64(self.world.page_size)
            self._compare_check(self.coordinator.check(self.block, offsets), pages, offsets)

    def _kill_one(self, dice: random.Random) -> None:
        with self._lock:
            if self.killed >= self.world.kills:
                return
            self.killed += 1
        pid = dice.choice(self.coordinator.worker_pids)
        try:
            if psutil.Process(pid).ppid() == os.getpid():
                os.kill(pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass  # it is being replaced already

    def _may_stay_undecided(self) -> bool:
        """A batch that was in progress at two deaths is set aside."""
        return self.killed >= 2

    def _compare_scan(self, report: Report) -> None:
        found = report.blocks[0]
        pages = self.world.pages
        zero, normal = bits(found.zero, pages), bits(found.normal, pages)
        unchanged = np.zeros(pages, np.bool_)
        expected_zero, expected_normal = self.truth.zero, ~self.truth.zero
        if self.world.kind == "diff":
            unchanged = bits(found.unchanged, pages)
            assert np.array_equal(unchanged, self.truth.hole)
            expected_zero = self.truth.zero & ~unchanged
        decided = zero | normal | unchanged
        assert np.array_equal(zero, expected_zero & decided), "zero bits"
        assert np.array_equal(normal, expected_normal & decided), "normal bits"
        counts = found.counts
        assert (counts.zero, counts.normal) == (zero.sum(), normal.sum())
        assert counts.zero + counts.normal + counts.undecided + counts.unchanged == pages
        assert counts.unchanged == unchanged.sum()
        trusted = self.world.kind == "full" and self.world.holes == "trust"
        if trusted and self.block.trust_holes:
            assert counts.hole == self.truth.hole.sum()
        if counts.undecided:
            assert self._may_stay_undecided(), report.notes
            assert report.notes

    def _compare_check(self, answer: Answer, pages: np.ndarray, offsets: np.ndarray) -> None:
        expected = self.truth.zero[pages]
        assert np.array_equal(answer.zero, expected & answer.decided), "zero answers"
        if not answer.decided.all():
            assert self._may_stay_undecided(), answer.notes
            assert answer.notes
        parts = np.concatenate([offsets[~answer.zero], offsets[answer.zero]])
        assert np.array_equal(answer.partition, parts), "partition"
        assert answer.normal_count == np.count_nonzero(~answer.zero)
