"""A process with private memory to look at, and the bare copy of such memory: two C programs."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.memory import ProcessMemory
from pagecheck.vmm.private import open_private
from tools.bench.data import compiled


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

    def ask(self, *words: object) -> int:
        """Sends a line and waits for the number that answers it."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """The next number that it prints.

        Raises:
            ValueError: it ended instead.
        """
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


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
        self.address = self.answer()

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
        return self.ask(size, int(seconds * 1e9))


class BareCopy(_Program):
    """process_vm_readv and nothing else, see vm_readv.c."""

    def __init__(self) -> None:
        super().__init__("vm_readv")

    def __enter__(self) -> BareCopy:
        return self

    def seconds(self, ram: PrivateRam, buffer: int, threads: int) -> float:
        """One copy of all of it.

        Args:
            buffer: bytes of each thread's buffer.
            threads: how many.
        """
        return self.ask(ram.pid, ram.address, ram.size, buffer, threads) / 1e9
