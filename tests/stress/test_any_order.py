"""What is done to a coordinator and to the files that it knows, in any order (Hypothesis): attach,
detach, write, punch, resize, check, scan, kill, stop, cancel, close. Every answer is compared.

`pytest tests/stress/test_any_order.py --minutes N --seed S`; a failure prints the shortest script.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
)

from pagecheck import Answer, Coordinator, Report
from pagecheck.coordinator import Block
from pagecheck.errors import UsageError
from tests.stress.any_order import run_in_any_order
from tests.stress.budget import Budget
from tests.support.bitmaps import Bools, bits
from tests.support.leftovers import nothing_left
from tests.support.processes import stop
from tests.support.rams import PAGE, punch

EXAMPLES = 12  # of a round
STEPS = 30
PAGES_MAX = 700
KILLS_MAX = 4  # a channel that loses five workers without an answer is abandoned
HOLE, ZEROS, NORMAL = range(3)
PATIENCE_S = 60

pytestmark = pytest.mark.timeout(300)  # a failure is made short first


class File:
    """A memfd, and what each page of it holds.

    Attributes:
        pages: HOLE, ZEROS or NORMAL, of each page that it has now.
        least: the fewest pages that it had since a block of it was attached.
    """

    def __init__(self, pages: int) -> None:
        self.fd = os.memfd_create("ram")
        self.pages = np.zeros(0, np.uint8)
        self.resize(pages)

    def resize(self, pages: int) -> None:
        """Pages that it gets are holes."""
        os.ftruncate(self.fd, pages * PAGE)
        kept = self.pages[:pages]
        self.pages = np.concatenate([kept, np.full(pages - len(kept), HOLE, np.uint8)])

    def write(self, first: int, count: int, place: int | None) -> None:
        """Zeros, or zeros with a byte at `place`, in as many of these pages as it has."""
        content = bytearray(PAGE)
        if place is not None:
            content[place] = 0x80
        for page in range(first, min(first + count, len(self.pages))):
            os.pwrite(self.fd, content, page * PAGE)
            self.pages[page] = ZEROS if place is None else NORMAL

    def punch(self, first: int, count: int) -> None:
        punch(self.fd, first * PAGE, count * PAGE)
        self.pages[first : first + count] = HOLE

    @property
    def blocks(self) -> int:
        return os.fstat(self.fd).st_blocks


class Attached:
    """A block, and which of its pages the file has had all the time.

    Attributes:
        unit: pages of 4 KiB in one page of the block.
        diffs: none of its pages can be part hole, and its holes are trusted.
        was_cut: pages of the block that the file lacked at some time since.
    """

    def __init__(self, block: Block, file: File, unit: int, *, diffs: bool) -> None:
        self.block = block
        self.file = file
        self.unit = unit
        self.diffs = diffs
        self.was_cut = np.zeros(block.ram.pages, np.bool_)

    def right(self) -> tuple[Bools, Bools, Bools]:
        """Pages that are zero, that are holes, and that the file has now."""
        pages = self.block.ram.pages
        units = self.file.pages[: pages * self.unit]
        units = np.concatenate([units, np.full(pages * self.unit - len(units), 255, np.uint8)])
        units = units.reshape(pages, self.unit)
        return (units < NORMAL).all(1), (units == HOLE).all(1), (units < 255).all(1)


pages_of_file = st.integers(0, PAGES_MAX - 1)
counts = st.sampled_from([1, 2, 63, 64, 65, 300])


class AnyOrder(RuleBasedStateMachine):
    """One coordinator."""

    files = Bundle("files")
    blocks = Bundle("blocks")

    @initialize(channels=st.integers(1, 2), batch=st.sampled_from([None, 1, 64, 1000]))
    def begin(self, channels: int, batch: int | None) -> None:
        self.kills = 0
        self.closed = False
        self.made: list[File] = []
        self.attached: list[Attached] = []
        self.left = contextlib.ExitStack()
        self.left.enter_context(nothing_left(5, reports_live=True))
        self.c = Coordinator(channels, engine="cpu", batch_pages=batch)

    def teardown(self) -> None:
        self.c.close()
        for file in self.made:
            os.close(file.fd)
        self.made, self.attached = [], []
        self.left.close()

    @rule(target=files, pages=st.integers(1, PAGES_MAX))
    def make(self, pages: int) -> File:
        self.made.append(File(pages))
        return self.made[-1]

    @rule(file=files, first=pages_of_file, count=counts, place=st.none() | st.integers(0, PAGE - 1))
    def write(self, file: File, first: int, count: int, place: int | None) -> None:
        file.write(first, count, place)

    @rule(file=files, first=pages_of_file, count=counts)
    def punch(self, file: File, first: int, count: int) -> None:
        file.punch(first, count)

    @rule(file=files, pages=st.integers(0, PAGES_MAX))
    def resize(self, file: File, pages: int) -> None:
        file.resize(pages)
        for each in self.attached:
            if each.file is file:
                each.was_cut |= ~each.right()[2]

    @precondition(lambda self: not self.closed)
    @rule(
        target=blocks,
        file=files,
        unit=st.sampled_from([1, 1, 2, 16]),
        access=st.sampled_from(["auto", "map", "read"]),
        holes=st.sampled_from(["trust", "read"]),
    )
    def attach(self, file: File, unit: int, access: Any, holes: Any) -> Attached | Any:
        pages = len(file.pages) // unit
        if not pages:
            return multiple()
        how = {"page_size": unit * PAGE, "length": pages * unit * PAGE}
        block = self.c.attach(f"fd:{file.fd}", access=access, holes=holes, **how)
        self.attached.append(Attached(block, file, unit, diffs=unit == 1 and holes == "trust"))
        return self.attached[-1]

    @rule(gone=consumes(blocks))
    def detach(self, gone: Attached) -> None:
        self.c.detach(gone.block)
        self.attached.remove(gone)
        with pytest.raises(UsageError):
            self.c.check(gone.block, [0])
        with pytest.raises(UsageError):
            self.c.scan(gone.block)

    @rule(of=blocks, seed=st.integers(0, 99), count=st.sampled_from([0, 1, 128, 129, 1000]))
    def check(self, of: Attached, seed: int, count: int) -> None:
        self.compared(of, lambda: self.check_some(of, seed, count))

    @rule(of=blocks, seed=st.integers(0, 99))
    def check_in_no_time(self, of: Attached, seed: int) -> None:
        self.compared(of, lambda: self.check_some(of, seed, 1000, deadline=1e-6))

    @rule(of=blocks, diff=st.booleans())
    def scan(self, of: Attached, diff: bool) -> None:
        self.compared(of, lambda: self.scan_all(of, diff=diff and of.diffs))

    @rule(of=blocks)
    def scan_in_no_time(self, of: Attached) -> None:
        self.compared(of, lambda: self.scan_all(of, deadline=1e-6))

    @precondition(lambda self: self.kills < KILLS_MAX and not self.closed)
    @rule(number=st.integers(0, 1), how=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def kill(self, number: int, how: int) -> None:
        self.kills += 1
        pids = self.c.worker_pids
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[number % len(pids)], how)

    @precondition(lambda self: not self.closed)
    @rule(of=blocks, number=st.integers(0, 1), seed=st.integers(0, 99))
    def check_while_a_worker_is_stopped(self, of: Attached, number: int, seed: int) -> None:
        """It waits for the answer of the one that is stopped, or gets it from another one."""
        if not self.c.is_running:
            return
        pids = self.c.worker_pids
        pid = pids[number % len(pids)]
        stop(pid)
        errors: list[BaseException] = []

        def checking() -> None:
            try:
                self.compared(of, lambda: self.check_some(of, seed, 1000))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=checking)
        thread.start()
        thread.join(0.02)
        os.kill(pid, signal.SIGCONT)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        if errors:
            raise errors[0]

    @precondition(lambda self: not self.closed and self.attached)
    @rule()
    def close_all(self) -> None:
        """Its blocks are of no use after that."""
        self.closed = True
        self.c.close()

    def compared(self, of: Attached, look: Callable[[], None]) -> None:
        """Looks, and nothing is allocated by that; or the coordinator is closed and says so."""
        if self.closed:
            with pytest.raises(UsageError):
                look()
            return
        before = of.file.blocks
        look()
        assert of.file.blocks == before, "looking allocated something"

    def check_some(self, of: Attached, seed: int, count: int, **how: Any) -> None:
        pages = np.random.default_rng(seed).integers(0, of.block.ram.pages, count)
        offsets = pages.astype(np.uint64) * np.uint64(of.block.ram.page_size)
        answer: Answer = self.c.check(of.block, offsets, **how)
        zero, _hole, there = of.right()
        assert not (answer.zero & ~answer.decided).any()
        assert np.array_equal(answer.zero, zero[pages] & answer.decided), "zero"
        assert not (answer.decided & ~there[pages]).any(), "decided behind the end"
        if not how:
            assert answer.decided[~of.was_cut[pages]].all(), answer.notes
        assert answer.decided.all() or answer.notes
        parts = np.concatenate([offsets[~answer.zero], offsets[answer.zero]])
        assert np.array_equal(answer.partition, parts)

    def scan_all(self, of: Attached, *, diff: bool = False, **how: Any) -> None:
        report: Report = self.c.scan(of.block, kind="diff" if diff else "full", **how)
        found, pages = report.blocks[0], of.block.ram.pages
        right_zero, hole, there = of.right()
        zero, normal = bits(found.zero, pages), bits(found.normal, pages)
        unchanged = bits(found.unchanged, pages) if diff else np.zeros(pages, np.bool_)
        assert not (zero & normal).any()
        assert not (unchanged & (zero | normal)).any()
        decided = zero | normal | unchanged
        assert not (decided & ~there).any(), "decided behind the end"
        if diff:
            assert np.array_equal(unchanged, hole & decided), "unchanged"
        assert np.array_equal(zero, right_zero & decided & ~unchanged), "zero"
        assert np.array_equal(normal, ~right_zero & decided), "normal"
        if not how:
            assert decided[~of.was_cut].all(), report.notes
        assert not found.counts.undecided or report.notes


def test_any_order(budget: Budget) -> None:
    run_in_any_order(AnyOrder, budget, examples=EXAMPLES, steps=STEPS)
