"""What a test may not leave behind: names in /dev/shm, processes, threads and descriptors.

Other coordinators may use /dev/shm at the same time, so only the names of owners that this process
made are looked for, or names that nobody living holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import signal
import threading
from collections.abc import Iterator

import psutil

from pagecheck.shm.owner import Owner
from tests.support.command import tagged_processes
from tests.support.waiting import holds_within, wait_for

_OF_AN_OWNER = re.compile(r"(?:sem\.)?(pagecheck-\d+-[0-9a-f]+)-")


def open_fds(pid: int | str = "self") -> dict[int, str]:
    """Descriptors of a process and what they lead to, without those that are being closed."""
    for thread in threading.enumerate():
        if thread.name == "unwatch":  # see pagecheck/shm/rest.py
            thread.join()
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _feeders() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("pagecheck")}


@contextlib.contextmanager
def owners_recorded() -> Iterator[list[str]]:
    """The prefixes of the owners that this process makes inside."""
    prefixes: list[str] = []
    original = Owner.__init__

    def recording(self: Owner) -> None:
        original(self)
        prefixes.append(self.prefix)

    Owner.__init__ = recording
    try:
        yield prefixes
    finally:
        Owner.__init__ = original


def names_of(prefixes: list[str]) -> list[str]:
    """What is in /dev/shm of owners with these prefixes."""
    return [n for n in os.listdir("/dev/shm") if any(prefix in n for prefix in prefixes)]


@contextlib.contextmanager
def nothing_left(seconds: float = 0, *, reports_live: bool = False) -> Iterator[None]:
    """Fails if what runs inside leaves a name in /dev/shm, a child, a thread or a descriptor.

    Args:
        seconds: how long children and threads may take to end.
        reports_live: bitmaps may stay: they live as long as a report of them, also in the frame of
            an error that a log keeps. tests/processes/test_looking.py tests that.
    """
    gc.collect()
    fds, children, feeders = open_fds(), _children(), _feeders()
    with owners_recorded() as prefixes:
        yield
    holds_within(seconds, lambda: not (_children() - children or _feeders() - feeders))
    gc.collect()
    may_stay = "-bitmaps (deleted)" if reports_live else "\0"

    def left_fds() -> dict[int, str]:
        new = {fd: to for fd, to in open_fds().items() if fds.get(fd) != to}
        return {fd: to for fd, to in new.items() if not to.endswith(may_stay)}

    holds_within(seconds, lambda: not left_fds())  # a thread whose scan was ended closes its own
    left = {
        "names in /dev/shm": names_of(prefixes),
        "children": sorted(_children() - children),
        "threads": sorted(thread.name for thread in _feeders() - feeders),
        "descriptors": left_fds(),
    }
    assert not any(left.values()), f"left behind: { {k: v for k, v in left.items() if v} }"


def ownerless() -> set[str]:
    """Names of coordinators in /dev/shm that none living holds; the RAM of guests has others."""
    found = set()
    for name in os.listdir("/dev/shm"):
        if prefix := _OF_AN_OWNER.match(name):
            try:
                with open(f"/dev/shm/{prefix[1]}-owner") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except FileNotFoundError:
                if not os.path.exists(f"/dev/shm/{name}"):
                    continue
            found.add(name)
    return found


@contextlib.contextmanager
def no_command_left() -> Iterator[None]:
    """Fails if a command that was started inside leaves a process, or a name in /dev/shm."""
    before = ownerless()
    yield
    try:
        wait_for(lambda: not tagged_processes(), "no process left", 3)
    finally:
        for pid in tagged_processes():  # so that one test's fault is not the next one's
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not ownerless() - before, f"/dev/shm clean: {ownerless() - before}", 3)
