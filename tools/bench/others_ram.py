"""A process with private memory to look at, and the bare copy of such memory: two C programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory
from tools.bench.data import compiled


class Took(NamedTuple):
    """Seconds: how long something took, and the CPU time of those who did it."""

    wall: float
    cpu: float


class Scheduled(NamedTuple):
    """Seconds since a thread began.

    Attributes:
        ran: it ran.
        waited: it was ready to run, and its CPU ran others.
    """

    ran: float
    waited: float

    @classmethod
    def of(cls, pid: int, thread: int | None = None) -> Scheduled:
        """What the kernel counted for a thread; for a process's first one, if none is named."""
        words = Path(f"/proc/{pid}/task/{thread or pid}/schedstat").read_text().split()
        return cls(int(words[0]) / 1e9, int(words[1]) / 1e9)


class _Program:
    """A C program of this folder that answers each line with a line."""

    def __init__(self, name: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [compiled(name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    def ask(self, *words: object) -> list[int]:
        """Sends a line and waits for the numbers that answer it."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> list[int]:
        """The numbers in the next line that it prints.

        Raises:
            ValueError: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(f"{self._process.args!r}: ended")
        return [int(word) for word in line.split()]


class PrivateRam(_Program):
    """A process with private memory, see private_ram.c.

    Attributes:
        address: of its first byte.
        size: bytes.
    """

    def __init__(self, size: int, fill: str, pages: str = "small") -> None:
        """Starts it and waits until the memory is there.

        Args:
            fill: `absent`, `zero`, `half`, `full` or `second`.
            pages: `huge` or `small`.
        """
        super().__init__("private_ram", str(size), fill, pages)
        self.size = size
        (self.address,) = self.answer()

    def __enter__(self) -> PrivateRam:
        return self

    @property
    def range(self) -> str:
        """START-END in hexadecimal, as `--range` takes it."""
        return f"{self.address:#x}-{self.address + self.size:#x}"

    def open(self) -> ProcessRam:
        """The memory as a source."""
        memory = ProcessMemory(self.pid)
        try:
            return open_private(memory, f"pid:{self.pid}", "ram", self.address, self.size)
        finally:
            memory.close()

    def run_on(self, cpu: int) -> None:
        """Keeps it on one CPU."""
        os.sched_setaffinity(self.pid, {cpu})

    def loop(self, size: int, seconds: float) -> int:
        """Lets it change its first `size` bytes again and again; how many bytes it passed."""
        return self.ask(size, int(seconds * 1e9))[0]


class BareCopy(_Program):
    """process_vm_readv and nothing else, see vm_readv.c."""

    def __init__(self) -> None:
        super().__init__("vm_readv")

    def __enter__(self) -> BareCopy:
        return self

    def take(self, ram: PrivateRam, buffer: int, threads: int) -> Took:
        """One copy of all of it.

        Args:
            buffer: bytes of each thread's buffer.
            threads: how many.
        """
        wall, cpu = self.ask(ram.pid, ram.address, ram.size, buffer, threads)
        return Took(wall / 1e9, cpu / 1e9)
