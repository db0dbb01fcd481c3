"""Saves whose processes are killed, each in turn, at random moments: the VM runs, the older
snapshot is whole, and nothing counts as a snapshot that is none."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pagecheck
from pagecheck.shm.owner import sweep
from tests.support import command
from tests.support.processes import start_program
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu

pytestmark = pytest.mark.timeout(1200)
ROUNDS = 6  # or --worlds N
LASTS_S = 0.3  # what the pause lasts at this rate, about


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    """What killed saves leave is gone before the next test."""
    yield
    wait_for(lambda: not command.tagged_processes(), "the end of what was left")
    sweep(0)


# Each save is a process of its own; only what it would import first is there already.
_SAVES = """
import os, sys
import pagecheck, pagecheck.coordinator, pagecheck.vmm, pagecheck.snapshot.save
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        path, live = line.split()
        how = {{"channels": 2, "max_rate": 32 << 20, "max_pause": 60, "live": live == "live"}}
        pagecheck.save({source!r}, path, **how)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def ours(saver: int) -> list[psutil.Process]:
    """The save's process, its watchdog, its workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(saver)
        return [process, *process.children(recursive=True)]
    return []


def test_kills(
    qemu: BareQemu,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every other round the moment is one at which the VM is stopped."""
    rounds = request.config.getoption("--worlds") or ROUNDS
    rng = random.Random(request.config.getoption("--seed"))
    source = f"qmp:{qemu.socket}"
    pagecheck.save(source, tmp_path / "older", channels=1)
    qemu.own_events()
    killed = 0
    monkeypatch.setenv(*command.TAG.split("="))
    with start_program(_SAVES.format(source=source)) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in range(rounds):
            snap = tmp_path / f"snap{number}"
            print(snap, "live" if number % 3 == 2 else "stopped", file=program.stdin, flush=True)
            saver = int(program.stdout.readline())
            if number % 2:
                qemu.wait_event("STOP")
            time.sleep(rng.uniform(0, LASTS_S))  # a random moment is the test
            victims = ours(saver)
            if victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victims[number % 4 % len(victims)].send_signal(signal.SIGKILL)
                    killed += 1
            status = int(program.stdout.readline())
            wait_for(lambda: qemu.status() == "running", "the VM runs again", 20)
            qemu.own_events()
            pagecheck.verify(tmp_path / "older")
            if snap.exists():
                pagecheck.verify(snap)
            assert (status == 0) <= snap.exists()
        program.stdin.close()
    assert killed >= rounds // 2, "those whose moment is in the pause"
    # A save that others' deaths do not touch removes what all of them left.
    pagecheck.save(source, tmp_path / "last", channels=1)
    assert not [each for each in os.listdir(tmp_path) if each.startswith(".")]
