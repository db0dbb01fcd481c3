"""Runs one world: threads that check beside one that scans, with kills, every answer compared."""

from __future__ import annotations

import functools
import os
import random
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

from pagecheck.selftest.wrong import Wrong, require, require_same

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.report.report import Answer, Report
    from pagecheck.selftest.content import Truth
    from pagecheck.selftest.world import World

    Bools = npt.NDArray[np.bool_]

PATIENCE_S: Final = 60
SCANS_MAX: Final = 50
CHECK_BYTES: Final = 32 << 20  # of one check, at most


class Hung(Wrong):
    """A thread has not come back in time; nothing can be said of this process any more."""


class Run:
    """What the threads of one world share.

    Attributes:
        killed: SIGKILLs sent so far.
        answers: scans and checks that were compared.
    """

    def __init__(
        self, world: World, truth: Truth, coordinator: Coordinator, block: Block, *, holes: bool
    ) -> None:
        """Nothing runs yet.

        Args:
            holes: that a page was never written is known, and so is how many of them there are.
        """
        self.world = world
        self.truth = truth
        self.coordinator = coordinator
        self.block = block
        self.killed = 0
        self.answers = 0
        self._holes = holes
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._checking = threading.Event()

    def go(self) -> None:
        """Starts every thread, waits for them, and raises the first error."""
        self._checking.set()
        scanner = self._thread(self._scan_on)
        numbers = range(self.world.threads)
        checkers = [self._thread(functools.partial(self._check_on, n)) for n in numbers]
        for thread in checkers:
            thread.join(PATIENCE_S)
        self._checking.clear()
        scanner.join(PATIENCE_S)
        if any(thread.is_alive() for thread in [scanner, *checkers]):
            others = "".join(f"; another one: {error}" for error in self._errors[:1])
            raise Hung(f"a thread that scans or checks has not ended in {PATIENCE_S} s{others}")
        if self._errors:
            raise self._errors[0]

    def _thread(self, target: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _scan_on(self) -> None:
        """Scans again and again while others check, at least once."""
        for _ in range(SCANS_MAX):
            report = self.coordinator.scan(self.block, kind=self.world.kind)  # type: ignore[arg-type]
            self._compare_scan(report)
            self.answers += 1
            if not self._checking.is_set() or not self.world.threads:
                return

    def _check_on(self, number: int) -> None:
        world = self.world
        dice = np.random.default_rng([world.seed, number])
        for _ in range(world.checks):
            most = max(5, CHECK_BYTES // world.page_size)
            count = min(most, int(dice.choice([0, 1, 5, 128, 129, 1500])))
            pages = dice.integers(0, world.pages, count)  # unordered, with duplicates
            if dice.random() < 0.3:
                pages = np.sort(pages)
            if dice.random() < 0.4:
                self._kill_one(random.Random(int(dice.integers(1 << 30))))
            offsets = pages.astype(np.uint64) * np.uint64(world.page_size)
            self._compare_check(self.coordinator.check(self.block, offsets), pages, offsets)
            self.answers += 1

    def _kill_one(self, dice: random.Random) -> None:
        with self._lock:
            if self.killed >= self.world.kills:
                return
            self.killed += 1
        pid = dice.choice(self.coordinator.worker_pids)
        try:
            worker = psutil.Process(pid)
            if worker.ppid() == os.getpid():
                worker.kill()  # unless it has ended, and the number is another's
        except psutil.NoSuchProcess:
            pass  # it is being replaced already

    def _require_reason(self, decided: bool, notes: tuple[str, ...]) -> None:
        """A batch that was in progress at two deaths is set aside, with a note; no other is."""
        if not decided:
            require(self.killed >= 2, f"pages are undecided after {self.killed} kills: {notes}")
            require(bool(notes), "pages are undecided, and no note says why")

    def _compare_scan(self, report: Report) -> None:
        found, pages = report.blocks[0], self.world.pages
        zero, normal = bits(found.zero, pages), bits(found.normal, pages)
        unchanged = np.zeros(pages, np.bool_)
        if self.world.kind == "diff":
            require(found.unchanged is not None, "a diff without unchanged pages")
            assert found.unchanged is not None
            unchanged = bits(found.unchanged, pages)
            require_same("unchanged pages of the diff", unchanged, self.truth.hole)
        decided = zero | normal | unchanged
        right = self.truth.zero & ~unchanged
        require_same("zero pages of the scan", zero, right & decided)
        require_same("normal pages of the scan", normal, ~self.truth.zero & decided)
        self._compare_counts(report, zero, normal, unchanged)
        self._require_reason(not report.total.undecided, report.notes)

    def _compare_counts(self, report: Report, zero: Bools, normal: Bools, unchanged: Bools) -> None:
        counts = report.blocks[0].counts
        said = (counts.zero, counts.normal, counts.unchanged)
        right = (int(zero.sum()), int(normal.sum()), int(unchanged.sum()))
        require(said == right, f"the scan counts {said} zero, normal, unchanged, not {right}")
        total = sum(said) + counts.undecided
        require(total == self.world.pages, f"the scan counts {total} pages of {self.world.pages}")
        full = self.world.kind == "full" and self.world.holes == "trust"
        if full and self._holes and self.block.trust_holes:
            holes = int(self.truth.hole.sum())
            require(counts.hole == holes, f"the scan counts {counts.hole} holes, not {holes}")

    def _compare_check(self, answer: Answer, pages: npt.NDArray[np.int64], offsets: Any) -> None:
        right = self.truth.zero[pages] & answer.decided
        require_same("zero pages of a check", answer.zero, right)
        self._require_reason(bool(answer.decided.all()), answer.notes)
        parts = np.concatenate([offsets[~answer.zero], offsets[answer.zero]])
        require(np.array_equal(answer.partition, parts), "a check's offsets are sorted wrongly")
        normal = int(np.count_nonzero(~answer.zero))
        require(answer.normal_count == normal, f"a check counts {answer.normal_count} normal pages")


def bits(words: memoryview, pages: int) -> Bools:
    """A bitmap as bool[pages]; its length and its padding are what they must be."""
    every = np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little").astype(np.bool_)
    require(len(every) == (pages + 63) // 64 * 64, f"a bitmap of {len(every)} bits")
    require(not every[pages:].any(), "a bitmap has bits behind its last page")
    return every[:pages]
