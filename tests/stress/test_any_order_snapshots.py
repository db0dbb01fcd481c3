"""A RAM file and its snapshots, in any order (Hypothesis): write, resize, scan, punch, save,
verify, restore, restore over it, damage. What comes back is what was saved, or is refused.

`pytest tests/stress/test_any_order_snapshots.py --minutes N --seed S`; a failure prints the script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
)

import pagecheck
from pagecheck import Coordinator
from pagecheck.errors import OutputError, PagecheckError, SnapshotError
from tests.stress.any_order import run_in_any_order
from tests.stress.budget import Budget
from tests.support.bitmaps import bits
from tests.support.leftovers import nothing_left
from tests.support.rams import PAGE

EXAMPLES = 5  # of a round
STEPS = 25
PAGES_MAX = 300

pages_of_file = st.integers(0, PAGES_MAX - 1)

pytestmark = pytest.mark.timeout(300)  # a failure is made short first


class Saved:
    """One snapshot, and the bytes that were saved."""

    def __init__(self, path: Path, content: bytes, *, compressed: bool) -> None:
        self.path = path
        self.compressed = compressed
        self.content = content
        self.damaged = ""


class Snapshots(RuleBasedStateMachine):
    """One RAM file on tmpfs."""

    saved = Bundle("saved")

    @initialize(pages=st.integers(1, PAGES_MAX))
    def begin(self, pages: int) -> None:
        self.left = contextlib.ExitStack()
        self.left.enter_context(nothing_left(5, reports_live=True))
        self.folder = Path(
            self.left.enter_context(tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm"))
        )
        self.ram = self.folder / "ram"
        self.content = bytearray()
        self.made = 0
        self.ram.touch()
        self.resize(pages)
        self.c = self.left.enter_context(Coordinator(1, engine="cpu"))

    def teardown(self) -> None:
        self.left.close()

    @rule(pages=st.integers(1, PAGES_MAX))
    def resize(self, pages: int) -> None:
        os.truncate(self.ram, pages * PAGE)
        del self.content[pages * PAGE :]
        self.content.extend(bytes(pages * PAGE - len(self.content)))

    @rule(first=pages_of_file, count=st.sampled_from([1, 5, 64, 200]), byte=st.sampled_from([0, 7]))
    def write(self, first: int, count: int, byte: int) -> None:
        begin = first * PAGE
        data = bytes([byte]) * (min(count * PAGE, len(self.content) - begin))
        if data:
            with self.ram.open("r+b") as file:
                file.seek(begin)
                file.write(data)
            self.content[begin : begin + len(data)] = data

    @rule()
    def scan(self) -> None:
        report = pagecheck.scan(self.ram, coordinator=self.c)
        pages = len(self.content) // PAGE
        assert np.array_equal(bits(report.blocks[0].zero, pages), zero_of(self.content))
        assert report.total.undecided == 0
        self.unchanged()

    @rule()
    def punch(self) -> None:
        """Zero pages are gone, bytes are what they were."""
        pagecheck.punch(self.ram, channels=1, engine="cpu")
        self.unchanged()
        normal = int((~zero_of(self.content)).sum())
        assert self.ram.stat().st_blocks * 512 == normal * PAGE

    @rule(target=saved, compress=st.sampled_from([None, None, "zstd"]))
    def save(self, compress: Any) -> Saved:
        path = self.folder / f"saved{self.made}"
        self.made += 1
        before = self.ram.stat().st_blocks
        report = pagecheck.save(self.ram, path, compress=compress, coordinator=self.c)
        assert self.ram.stat().st_blocks == before
        self.unchanged()
        assert report.to_json()
        return Saved(path, bytes(self.content), compressed=compress is not None)

    @rule(of=saved)
    def save_over(self, of: Saved) -> None:
        if of.path.exists():
            with pytest.raises(OutputError):
                pagecheck.save(self.ram, of.path, coordinator=self.c)

    @rule(of=saved)
    def verify(self, of: Saved) -> None:
        with self.refused_if_damaged(of):
            pagecheck.verify(of.path)

    @rule(of=saved)
    def restore(self, of: Saved) -> None:
        to = self.folder / f"restored{self.made}"
        self.made += 1
        with self.refused_if_damaged(of):
            pagecheck.restore(of.path, to, channels=1)
        assert to.exists() == (not of.damaged)
        if not of.damaged:
            assert to.read_bytes() == of.content
            normal = int((~zero_of(of.content)).sum())
            assert to.stat().st_blocks * 512 == normal * PAGE
            to.unlink()

    @rule(of=saved)
    def restore_onto(self, of: Saved) -> None:
        if of.compressed or len(of.content) != len(self.content):
            with pytest.raises(PagecheckError):
                pagecheck.restore(of.path, self.ram, onto=True, coordinator=self.c)
        else:
            with self.refused_if_damaged(of):
                pagecheck.restore(of.path, self.ram, onto=True, coordinator=self.c)
            if not of.damaged:
                self.content[:] = of.content
        self.unchanged()

    @rule(of=saved, which=st.integers(0, 9), place=st.integers(0, 1 << 24))
    def change_a_byte(self, of: Saved, which: int, place: int) -> None:
        file = self.one_file(of, which)
        if file is None or not file.stat().st_size:
            return
        of.damaged += f" {file.name}"
        with file.open("r+b") as opened:
            place %= file.stat().st_size
            opened.seek(place)
            byte = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([byte ^ 0x10]))

    @rule(of=saved, which=st.integers(0, 9), by=st.sampled_from([-1, 1, 4096]))
    def change_a_size(self, of: Saved, which: int, by: int) -> None:
        file = self.one_file(of, which)
        if file is not None and file.stat().st_size + by >= 0:
            of.damaged += f" {file.name}"
            os.truncate(file, file.stat().st_size + by)

    @rule(of=saved, which=st.integers(0, 9))
    def remove_a_file(self, of: Saved, which: int) -> None:
        file = self.one_file(of, which)
        if file is not None:
            of.damaged += f" {file.name}"
            file.unlink()

    @rule(of=saved)
    def remove(self, of: Saved) -> None:
        shutil.rmtree(of.path, ignore_errors=True)
        of.damaged += " all"

    def one_file(self, of: Saved, which: int) -> Path | None:
        """A file of a snapshot to which nothing has happened yet: two changes could be none."""
        if of.damaged:
            return None
        files = sorted(of.path.iterdir())
        return files[which % len(files)]

    @contextlib.contextmanager
    def refused_if_damaged(self, of: Saved) -> Any:
        if not of.damaged:
            yield
            return
        with pytest.raises(PagecheckError) as caught:
            yield
        assert of.damaged.endswith("all") or isinstance(caught.value, SnapshotError), of.damaged

    def unchanged(self) -> None:
        assert self.ram.read_bytes() == self.content


def zero_of(content: bytes | bytearray) -> np.ndarray:
    return ~np.frombuffer(bytes(content), np.uint8).reshape(-1, PAGE).any(axis=1)


def test_any_order(budget: Budget) -> None:
    run_in_any_order(Snapshots, budget, examples=EXAMPLES, steps=STEPS)
