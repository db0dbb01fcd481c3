"""The separate process that reads from a file system that may stall, and who waits for it, killed
before any call: nothing wrong is said or saved, and nothing is left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

import pagecheck
from pagecheck.shm.owner import sweep
from pagecheck.snapshot.directory import remove_leftovers
from tests.stress.budget import Budget
from tests.support import command
from tests.support.faults import ASIDE, COMMAND, Fault
from tests.support.leftovers import ownerless
from tests.support.rams import PAGE
from tests.support.stalling_fs import FILE_BYTES, stalling_fs
from tests.support.waiting import wait_for

CALLS = {ASIDE: 55, COMMAND: 14}  # as a scan makes


def judge(done: command.Done, what: str, who: str, snap: Path) -> None:
    if who == ASIDE and done.returncode != 0:
        command.assert_fails(done, 3, "hung up")
    if what == "save":
        assert snap.exists() >= (done.returncode == 0)
        if snap.exists():
            pagecheck.verify(snap)
    elif done.returncode == 0:
        assert json.loads(done.stdout)["total"]["zero"] == FILE_BYTES // PAGE


@pytest.mark.timeout(0)  # each command has its own
@pytest.mark.parametrize("who", [ASIDE, COMMAND], ids=["aside", "command"])
@pytest.mark.parametrize("what", ["scan", "save"])
def test_a_kill(tmp_path: Path, budget: Budget, what: str, who: str) -> None:
    snap = tmp_path / "place" / "snap"
    snap.parent.mkdir()
    before = ownerless()
    happened = 0
    with stalling_fs(frozenset()) as fs:
        arguments = {
            "scan": ["scan", "--json", "--channels", "1", fs.path],
            "save": ["save", "--quiet", "--live", "--channels", "1", fs.path, snap],
        }[what]
        for seed in budget.seeds(2):
            # The first: it has not read what it is to do.
            at = random.Random(seed).randrange(CALLS[who]) if happened else 0
            fault = Fault(tmp_path / "fault", who, at, signal.SIGKILL)
            env = {**command.environment(), **fault.environment()}
            done = command.pagecheck(*arguments, env=env)
            happened += fault.happened()
            wait_for(lambda: not command.tagged_processes(), "no process is left")
            judge(done, what, who, snap)
            clear(snap)
            assert not ownerless() - before, (seed, at)
    assert happened


def clear(snap: Path) -> None:
    """Removes what a later start does, and the snapshot; nothing else is there."""
    sweep(0)
    fd = os.open(snap.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_leftovers(fd)
    finally:
        os.close(fd)
    if snap.exists():
        shutil.rmtree(snap)
    assert not list(snap.parent.iterdir())


@pytest.mark.parametrize("who", ["aside", "command"])
def test_a_kill_while_nothing_is_answered(who: str) -> None:
    with stalling_fs(frozenset({"READ"})) as fs:
        running = command.start("scan", "--format", "raw", "--channels", "1", fs.path)
        try:
            fs.await_word("READ")
            killed = running.pid
            if who == "aside":
                (killed,) = (
                    each
                    for each in command.tagged_processes()
                    if ASIDE in Path(f"/proc/{each}/cmdline").read_text()
                )
            os.kill(killed, signal.SIGKILL)
            _out, err = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == (3 if who == "aside" else -signal.SIGKILL)
    assert "Traceback" not in err
    wait_for(lambda: not command.tagged_processes(), "no process is left")
    sweep(0)
