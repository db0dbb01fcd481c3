"""Ends scans at random moments of a hold of theirs; each time the VM runs again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.support.processes import start_program
from tests.support.waiting import wait_for
from tools.guest import Guest

_HOLD_S: Final = 0.25  # what a hold lasts at this rate, about

# Each scan is a process of its own; only what it would import first is there already.
_SCANS: Final = """
import os, sys
import pagecheck, pagecheck.coordinator, pagecheck.vmm
while sys.stdin.readline():
    child = os.fork()
    if child == 0:
        pagecheck.scan({source!r}, pause=True, max_pause=60, max_rate=1 << 29, channels=1)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


def status(guest: Guest) -> str:
    return str(guest.qmp("query-status")["status"])


@contextlib.contextmanager
def scans_of(source: str) -> Iterator[Callable[[], int]]:
    """Starts a scan that holds the VM, as often as it is called; gives the scan's process id."""
    program: subprocess.Popen[str] = start_program(_SCANS.format(source=source))

    def start() -> int:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("\n")
        program.stdin.flush()
        return int(program.stdout.readline())

    with program:
        yield start
        assert program.stdin is not None
        program.stdin.close()


def kill_at_random(
    guest: Guest, source: str, *, rounds: int, number: int = signal.SIGKILL, seed: int = 1
) -> int:
    """Starts a scan and ends it at a random moment of its hold, again and again.

    Args:
        source: the VM as the scan is told of it.
        number: the signal, to the scanning process alone, as a fault in it would end it.

    Returns:
        In how many rounds the VM was stopped when the signal was sent.
    """
    rng = random.Random(seed)
    held = 0
    with scans_of(source) as start:
        for _ in range(rounds):
            scanner = start()
            wait_for(lambda: status(guest) == "paused", "the guest is held", 20)
            time.sleep(rng.uniform(0, _HOLD_S))  # a random moment is the test
            held += status(guest) == "paused"
            with contextlib.suppress(ProcessLookupError):
                os.kill(scanner, number)
            wait_for(lambda: status(guest) == "running", "the guest runs again", 10)
    return held
