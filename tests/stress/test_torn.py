"""Pages that change while they are read: words that are never zero are never called so, whatever is
torn; and what is looked at again as the writer's own log says is right once it has stopped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block
from pagecheck.selftest.kernels import usable_kernels
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory
from tests.stress.budget import Budget
from tests.support.bitmaps import Bools, bits
from tests.support.rams import PAGE

PAGES = 2048
KIND = np.arange(PAGES) % 8  # as writer.c has them
ALWAYS_ZERO = (KIND == 0) | (KIND == 1)
NEVER_ZERO = (KIND == 2) | (KIND == 5) | (KIND == 7)
OFFSETS = np.arange(PAGES, dtype=np.uint64) * np.uint64(PAGE)
DEFAULT_ROUNDS = 1
LOOKS = 4  # of a round, by each way to look
ROUNDS_OF_LOG = 4

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("writer") / "writer"
    source = Path(__file__).with_name("writer.c")
    strict = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *strict, source, "-o", made], check=True, timeout=60)
    return made


class Writer:
    """The process that writes, and the log of what it changed."""

    def __init__(self, program: Path, *, private: bool) -> None:
        self.ram = -1 if private else os.memfd_create("ram")
        self._control = os.memfd_create("control")
        os.ftruncate(self._control, PAGE + PAGES)
        if not private:
            os.ftruncate(self.ram, PAGES * PAGE)
        fds = [fd for fd in (self.ram, self._control) if fd >= 0]
        command = [str(each) for each in (program, self.ram, self._control, PAGES)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=fds)
        assert self._process.stdout is not None
        self._base = int(self._process.stdout.readline())

    def source(self) -> str | ProcessRam:
        if self.ram >= 0:
            return f"fd:{self.ram}"
        pid = self._process.pid
        with ProcessMemory(pid) as process:
            return open_private(process, f"pid:{pid}", "ram", self._base, PAGES * PAGE)

    def changed(self) -> np.ndarray:
        """Pages that were changed since the last call, as their numbers.

        Each is marked after its change: one that is marked again between the look and the store
        here was changed before it is looked at.
        """
        log = np.frombuffer(os.pread(self._control, PAGES, PAGE), np.uint8)
        pages = np.flatnonzero(log)
        for page in pages.tolist():
            os.pwrite(self._control, b"\0", PAGE + page)
        return pages

    def stop(self) -> None:
        """Nothing is written after this."""
        os.pwrite(self._control, b"\1", 0)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"stopped\n"

    def zero(self) -> Bools:
        """What numpy says, once it has stopped."""
        with open(f"/proc/{self._process.pid}/mem", "rb", buffering=0) as memory:
            content = os.pread(memory.fileno(), PAGES * PAGE, self._base)
        return ~np.frombuffer(content, np.uint64).reshape(PAGES, -1).any(axis=1)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        for fd in (self.ram, self._control):
            if fd >= 0:
                os.close(fd)


@pytest.fixture(params=["map", "read", "private"])
def writer(request: pytest.FixtureRequest, program: Path) -> Iterator[Writer]:
    made = Writer(program, private=request.param == "private")
    made.access = "read" if request.param == "read" else "auto"  # type: ignore[attr-defined]
    yield made
    made.end()


def ways() -> list[dict[str, Any]]:
    by_kernel = [{"engine": "cpu", "kernel": name} for name in usable_kernels()]
    models = ["model:", "model:mode=write,faults=page-fault"]
    return [*by_kernel, *({"engine": "dsa", "wq": [model]} for model in models)]


def live(zero: Bools, decided: Bools, pages: np.ndarray) -> None:
    """What may be said of pages that are being written."""
    assert decided.all()
    assert not zero[NEVER_ZERO[pages]].any(), f"page {pages[zero & NEVER_ZERO[pages]][0]} was torn"
    assert zero[ALWAYS_ZERO[pages]].all()


def scanned(coordinator: Coordinator, block: Block) -> Bools:
    found = coordinator.scan(block).blocks[0]
    zero, normal = bits(found.zero, PAGES), bits(found.normal, PAGES)
    live(zero, zero | normal, np.arange(PAGES))
    return zero


def checked(coordinator: Coordinator, block: Block, pages: np.ndarray) -> Bools:
    answer = coordinator.check(block, OFFSETS[pages])
    live(answer.zero, answer.decided, pages)
    return answer.zero


@pytest.mark.long(but="private")
def test_no_word_is_torn_into_zero(writer: Writer, budget: Budget) -> None:
    """And the answers to what the log names, one over the other, are right in the end."""
    for seed in budget.seeds(DEFAULT_ROUNDS):
        for how in ways():
            dice = np.random.default_rng(seed)
            with Coordinator(2, batch_pages=int(dice.choice([1, 64, 500])), **how) as c:
                block = c.attach(writer.source(), access=writer.access)  # type: ignore[attr-defined]
                for _ in range(LOOKS):
                    scanned(c, block)
                    checked(c, block, dice.permutation(PAGES))
    with Coordinator(2) as c:
        block = c.attach(writer.source(), access=writer.access)  # type: ignore[attr-defined]
        writer.changed()
        zero = scanned(c, block)
        for _ in range(ROUNDS_OF_LOG):
            pages = writer.changed()
            zero[pages] = checked(c, block, pages)
        writer.stop()
        pages = writer.changed()
        zero[pages] = checked(c, block, pages)
        assert np.array_equal(zero, writer.zero())
        assert np.array_equal(scanned(c, block), zero)
