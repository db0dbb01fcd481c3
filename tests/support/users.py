"""Other users on the same host, played by processes that become them: their rights, and what they
hold and lock."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

NOBODY: Final = 65534

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: other users are played by setuid"
)

# Becomes another user, opens a file (made if it is missing), takes a write lease on it and keeps
# it whatever the kernel says, until its stdin ends.
_LEASE: Final = """
import fcntl, os, signal, sys
uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def lease_held(path: Path, uid: int = NOBODY) -> Iterator[int]:
    """While it runs, another user has a write lease on a file of its own; gives its process id."""
    command = [sys.executable, "-I", "-c", _LEASE, str(path), str(uid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.stdin.close()


@contextlib.contextmanager
def opens_that_wait(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[str]]:
    """The paths that end in `name` and were opened in a way that waits for a lease. They are not
    waited for here: fs.lease-break-time is 45 s."""
    real, waited = os.open, []

    def noting(path: str, flags: int, *rest: int, **more: int) -> int:
        if str(path).endswith(name) and not flags & (os.O_NONBLOCK | os.O_PATH):
            waited.append(str(path))
        return real(path, flags | os.O_NONBLOCK, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", noting)
        yield waited


def in_a_child(work: Callable[[], None]) -> None:
    """Runs it in a forked child without root's rights, and fails if it does."""

    def without_rights() -> None:
        as_nobody()
        work()

    in_a_fork(without_rights)


def in_a_fork(work: Callable[[], None]) -> None:
    """As `in_a_child`, with the rights that the test has."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


class Forked:
    """A child of the test's own that became a user and works; what it needs was loaded before.

    Attributes:
        pid: of the child.
    """

    def __init__(self, work: Callable[[], object], uid: int) -> None:
        """Starts it."""
        codecs.lookup("ascii")  # which the user may not load
        self._told, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                become(uid)
                work()
                status = 0
            except BaseException as error:
                os.write(end, f"{type(error).__name__}: {error}".encode())
            os._exit(status)
        os.close(end)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60.0) -> str:
        """Its error, "" where it has none; the name of the signal that killed it."""
        pidfd = os.pidfd_open(self.pid)
        ended = select.select([pidfd], [], [], seconds)[0]
        os.close(pidfd)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with open(self._told) as told:
            text = told.read()
        assert ended, f"{text or 'it'} did not end in {seconds} s"
        return signal.Signals(-status).name if status < 0 else text


def become(uid: int) -> None:
    """This process is another user's from now on, whom others of that user may inspect."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, lost with root


def as_nobody() -> None:
    become(NOBODY if os.geteuid() == 0 else 0)
