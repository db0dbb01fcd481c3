"""Pages of a guest that runs are copied: none is called zero with bytes in its place; and a second
pass, once it stands still, makes the file what the guest has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block
from pagecheck.coordinator.settings import Engine
from pagecheck.model import Access
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.bitmaps import bits
from tests.support.rams import PAGE, memfd

PAGES = 2048
WRITER = """
import ctypes, mmap, sys
import numpy as np
fd, pages = int(sys.argv[1]), int(sys.argv[2])
kind = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
memory = mmap.mmap(fd, pages * 4096, flags=kind)
ram = np.frombuffer(memory, np.uint8).reshape(pages, 4096)
random = np.random.default_rng(1)
ram[:] = 0
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
while True:
    for page in random.integers(0, pages, 64).tolist():
        if ram[page, 17]:
            ram[page] = 0
        else:
            ram[page] = random.integers(1, 256)
"""


class Guest:
    """A process that never stops writing pages, until it is stopped."""

    access: Access = "auto"

    def __init__(self, fd: int) -> None:
        self.fd = fd
        command = [sys.executable, "-c", WRITER, str(fd), str(PAGES)]
        passed = [fd] if fd >= 0 else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=passed)
        assert self._process.stdout is not None
        self.base = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def source(self) -> str | ProcessRam:
        if self.fd >= 0:
            return f"fd:{self.fd}"
        with ProcessMemory(self.pid) as process:
            return open_private(process, f"pid:{self.pid}", "ram", self.base, PAGES * PAGE)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def content(self) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), PAGES * PAGE, self.base)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(params=["map", "read", "private"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with memfd() as ram:
        os.ftruncate(ram.fd, PAGES * PAGE)
        made = Guest(-1 if request.param == "private" else ram.fd)
        made.access = "auto" if request.param == "private" else request.param
        yield made
        made.end()


def copied_zero(coordinator: Coordinator, block: Block, fd: int) -> None:
    """Scans it; every page that is called zero is zero in the file."""
    result = coordinator.scan_block(block)
    assert (result.report.counts.undecided, result.write_error) == (0, None)
    zero = bits(result.report.zero, PAGES)
    there = np.frombuffer(os.pread(fd, PAGES * PAGE, 0), np.uint8).reshape(-1, PAGE).any(1)
    assert not (zero & there).any()


@pytest.mark.parametrize("engine", ["cpu", "dsa"])
def test_no_zero_page_has_bytes(guest: Guest, engine: Engine) -> None:
    wq = ["model:"] if engine == "dsa" else []
    with Coordinator(2, engine, wq=wq, batch_pages=128) as c:
        for update in (False, True):
            with memfd() as sink:
                os.ftruncate(sink.fd, PAGES * PAGE)
                block = c.attach(
                    guest.source(),
                    access=guest.access,
                    holes="read",
                    copy_to=sink.fd,
                    copy_update=update,
                )
                for _ in range(10 if update else 1):
                    copied_zero(c, block, sink.fd)
                c.detach(block)
                if update:
                    guest.stop()
                    block = c.attach(
                        guest.source(), holes="read", copy_to=sink.fd, copy_update=True
                    )
                    copied_zero(c, block, sink.fd)
                    assert os.pread(sink.fd, PAGES * PAGE, 0) == guest.content()
                    c.detach(block)
