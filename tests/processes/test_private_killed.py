"""A process whose memory the kernel takes away before it has ended: nothing absent is zero.

It is held on its way out by a debugger here, as it is by requests of io_uring that have yet to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest

from pagecheck import Coordinator
from tests.support import target as t
from tests.support.looking import attached, of_check, of_report, opened
from tests.support.processes import state_of
from tests.support.states import PAGES, anonymous
from tests.support.target import Target, assert_right
from tests.support.waiting import wait_for

# Source: linux/ptrace.h, asm-generic/unistd.h.
PTRACE_SEIZE: Final = 0x4206
PTRACE_DETACH: Final = 17
PTRACE_O_TRACEEXIT: Final = 1 << 6
PROCESS_MRELEASE: Final = 448

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long] * 4
LIBC.ptrace.restype = LIBC.syscall.restype = ctypes.c_long


@contextlib.contextmanager
def held_at_its_exit(pid: int) -> Iterator[None]:
    """Once it is killed it stops there, by the options of its tracer, until the end."""
    if LIBC.ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT):
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        LIBC.ptrace(PTRACE_DETACH, pid, 0, 0)


def take_memory(pid: int) -> None:
    """Has the kernel take the memory of a process that was killed, as it does where it is short."""
    pidfd = os.pidfd_open(pid)
    try:
        if LIBC.syscall(PROCESS_MRELEASE, pidfd, 0) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.ENOSYS:  # before Linux 5.15
            pytest.skip("the kernel has no process_mrelease")
        raise OSError(number, os.strerror(number))
    finally:
        os.close(pidfd)


def test_memory_that_was_taken_from_a_process_on_its_way_out() -> None:
    with Target() as target, Coordinator(1) as coordinator:
        area = anonymous(target)
        area.data(0, PAGES)
        with attached(coordinator, opened(area)) as block, held_at_its_exit(target.pid):
            assert_right(of_report(coordinator.scan(block)), area.may)
            os.kill(target.pid, signal.SIGKILL)
            wait_for(lambda: state_of(target.pid) == "t", "it is stopped at its exit")
            take_memory(target.pid)
            assert not area.present().any()  # so that the scan finds it absent
            undecided = np.full(PAGES, t.UNDECIDED, np.uint8)
            report = coordinator.scan(block)
            assert_right(of_report(report), undecided)
            assert any("is being killed" in note for note in report.notes), report.notes
            assert_right(of_check(coordinator, block, range(PAGES)), undecided)
