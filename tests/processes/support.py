"""What the tests of this folder share: RAM with a known truth, a view of a ring, ways to stop,
catch and kill a worker, and work in the background."""

import mmap
import os
import signal
import subprocess
import sys

import numpy as np

from pagecheck import Coordinator
from pagecheck.native._native import SLOT_HEAD_BYTES
from pagecheck.shm.layout import CONTROL, HEADER, SLOT
from tests.support.waiting import wait_for

PAGE = 4096


class Ram:
    """A memfd of RAM, dense unless pages are left out, with the truth about every page."""

    def __init__(self, pages: int, *, normal_share: float = 0.5, seed: int = 1) -> None:
        self.pages = pages
        self.size = pages * PAGE
        self.fd = os.memfd_create("ram")
        rng = np.random.default_rng(seed)
        self.zero = rng.random(pages) >= normal_share
        step = 2048
        for first in range(0, pages, step):
            count = min(step, pages - first)
            content = np.zeros((count, PAGE), np.uint8)
            at = rng.integers(0, PAGE, count)
            content[np.arange(count), at] = np.where(self.zero[first : first + count], 0, 7)
            os.pwrite(self.fd, content.tobytes(), first * PAGE)

    @property
    def source(self) -> str:
        return f"fd:{self.fd}"

    @property
    def offsets(self) -> np.ndarray:
        return np.arange(self.pages, dtype=np.uint64) * np.uint64(PAGE)

    @property
    def st_blocks(self) -> int:
        return os.fstat(self.fd).st_blocks

    def close(self) -> None:
        os.close(self.fd)


def bits(words: memoryview, pages: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little")[:pages].astype(bool)


def assert_scan_is_right(report, ram: Ram, undecided: set[int] | frozenset[int] = frozenset()):
    """Every page but the undecided ones is right, and the counts say so."""
    block = report.blocks[0]
    decided = np.ones(ram.pages, bool)
    decided[list(undecided)] = False
    np.testing.assert_array_equal(bits(block.zero, ram.pages), ram.zero & decided)
    np.testing.assert_array_equal(bits(block.normal, ram.pages), ~ram.zero & decided)
    assert block.counts.undecided == len(undecided)
    assert block.counts.zero + block.counts.normal + len(undecided) == ram.pages


def _mapped(name: str) -> mmap.mmap:
    fd = os.open(f"/dev/shm{name}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


class RingView:
    """A channel's segments as anybody with the right to may map it."""

    def __init__(self, name: str) -> None:
        self.memory = _mapped(name)
        self.control_memory = _mapped(name.removesuffix("ring") + "control")
        self.slot_pages = self.header("slot_pages")

    def header(self, field: str) -> int:
        return HEADER[field].read(self.memory)

    def control(self, field: str) -> int:
        return CONTROL[field].read(self.control_memory)

    def slot_at(self, sequence: int) -> int:
        index = sequence % self.header("slot_count")
        return self.header("header_bytes") + index * self.header("slot_bytes")

    def slot(self, sequence: int, field: str) -> int:
        at = self.slot_at(sequence)
        return SLOT[field].read(self.memory[at : at + SLOT_HEAD_BYTES])

    def is_submitted(self, sequence: int) -> bool:
        return self.slot(sequence, "request") == sequence << 8 | 1

    def write_words(self, sequence: int, zero: int, decided: int) -> None:
        """The first answer words of a slot."""
        at = self.slot_at(sequence) + SLOT_HEAD_BYTES + 8 * self.slot_pages
        self.memory[at : at + 8] = zero.to_bytes(8, "little")
        at += self.slot_pages // 8
        self.memory[at : at + 8] = decided.to_bytes(8, "little")

    def write_answer(self, sequence: int, answer: int) -> None:
        at = self.slot_at(sequence) + SLOT["answer"].offset
        self.memory[at : at + 8] = answer.to_bytes(8, "little")

    def close(self) -> None:
        self.memory.close()
        self.control_memory.close()


def state_of(pid: int) -> str:
    """R, S, D, T (stopped), Z; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid) in ("T", "Z", ""), f"worker {pid} stopped")


def catch_in_hand(coordinator: Coordinator, first_page: int | None = None) -> int:
    """Stops a worker while it decides a batch: any, or the one that begins at first_page.

    Returns:
        The stopped worker's pid.
    """

    def caught(pid: int, segment: str) -> bool:
        try:
            stop(pid)
            view = RingView(segment)
        except (ProcessLookupError, FileNotFoundError):
            return False
        sequence = view.control("deciding")
        asked = view.slot(sequence, "first_page") if sequence else None
        view.close()
        if state_of(pid) != "T":  # killed already, and not replaced yet
            return False
        if asked is not None and first_page in (None, asked):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    def any_caught() -> int:
        workers = zip(coordinator.worker_pids, coordinator.segment_names, strict=True)
        return next((pid for pid, segment in workers if caught(pid, segment)), 0)

    return wait_for(any_caught, "a batch in a worker's hand")


def start_program(program: str, *fds: int) -> subprocess.Popen[str]:
    """A Python program of its own, with the package that is under test here."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
