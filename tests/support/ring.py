"""A channel's shared memory as anybody with the right to may map it."""

import mmap
import os
import signal

from pagecheck import Coordinator
from pagecheck.native._native import SLOT_HEAD_BYTES
from pagecheck.shm.layout import CONTROL, HEADER, SLOT
from tests.support.processes import ahead_of_others, state_of, stop
from tests.support.waiting import wait_for


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


def catch_in_progress(coordinator: Coordinator, first_page: int | None = None) -> int:
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

    with ahead_of_others():
        return wait_for(any_caught, "a batch in progress")
