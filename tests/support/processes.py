"""Processes seen from outside: their state, their children, and a way to stop one."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.support.waiting import wait_for


def state_of(pid: int) -> str:
    """R, S, D, T (stopped), Z; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stop(pid: int) -> None:
    """Stops it, and returns once it is."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid) in ("T", "Z", ""), f"process {pid} stopped")


def kill(pid: int) -> None:
    """Kills it, and returns once it is dead."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: state_of(pid) in ("Z", ""), f"process {pid} dead")


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """This thread runs when it wants to, however busy the machine is; as root only.

    For who must see something that lasts for milliseconds. Only this thread: what other threads
    start is as before.
    """
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, before, parameter)


def children_of(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def is_scanning(pid: int) -> bool:
    """Whether workers are up and the scan itself has begun: its bitmaps are mapped."""
    try:
        return "-bitmaps" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_answers(pid: int) -> bool:
    """Whether the scan has decided a page: a bit of its bitmaps is set."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        paths = {line.split()[5] for line in lines if "-bitmaps" in line}
        return any(any(Path(path).read_bytes()) for path in paths)
    except (FileNotFoundError, ProcessLookupError):
        return False


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def start_program(program: str, *fds: int) -> subprocess.Popen[str]:
    """A Python program of its own, with the package that is under test here."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
