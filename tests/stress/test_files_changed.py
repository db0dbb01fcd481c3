"""A file that is cut, grown, replaced or removed in the middle of a command: what was made of it is
whole and right, or there is one line and nothing under the final name."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pagecheck.snapshot.verify import verify
from tests.stress.budget import Budget
from tests.stress.victims import VICTIMS, Site
from tests.support import command
from tests.support.faults import COMMAND, Fault
from tests.support.processes import state_of
from tests.support.rams import PAGE
from tests.support.waiting import wait_for

CALLS: Final = 150  # about as many as a command makes
CUT_PAGES: Final = 257  # past it there are normal pages and zero ones


def _cut(path: Path) -> None:
    os.truncate(path, CUT_PAGES * PAGE)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"?" * PAGE)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"?" * path.stat().st_size)
    other.rename(path)


CHANGES: Final[dict[str, Callable[[Path], None]]] = {
    "cut": _cut,
    "grown": _grow,
    "replaced": _replace,
    "removed": Path.unlink,
}
# By command: the file that is changed.
FILES: Final = {
    "verify": "saved/pc.ram.ram",
    "restore": "saved/pc.ram.ram",
    "restore-onto": "saved/pc.ram.ram",
    "restore-target": "onto",
    "save": "ram",
    "scan": "ram",
    "punch": "punched",
}


def changed_at(there: Site, name: str, change: str, at: int, folder: Path) -> command.Done | None:
    """What a command did whose file was changed before a call; None if it made fewer calls."""
    fault = Fault(folder, COMMAND, at, signal.SIGSTOP)
    arguments = VICTIMS[name.replace("target", "onto")].arguments(there)
    env = {**command.environment(), **fault.environment()}
    with command.start(*arguments, env=env) as process:
        try:
            wait_for(lambda: state_of(process.pid) in "TZ", "it stops, or ends")
            if fault.happened():
                # A lease keeps who changes the file until it is given up.
                changing = threading.Thread(
                    target=CHANGES[change], args=[there.folder / FILES[name]], daemon=True
                )
                changing.start()
                changing.join(0.05)
                os.kill(process.pid, signal.SIGCONT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    if not fault.happened():
        return None
    changing.join(30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def judge(there: Site, name: str, change: str, done: command.Done) -> None:
    assert done.returncode in range(6), done.stderr
    assert "Traceback" not in done.stderr
    assert "a bug" not in done.stderr
    if done.returncode > 1:
        assert done.stderr.startswith("pagecheck: ")
        assert done.stderr.count("\n") == 1
    if name == "restore":
        restored = there.folder / "restored"
        assert restored.exists() == (done.returncode == 0)
        assert not restored.exists() or restored.read_bytes() == there.content
    elif name in ("restore-onto", "restore-target") and done.returncode == 0:
        assert (there.folder / "onto").read_bytes() == there.content
    elif name == "save":
        snap = there.folder / "snap"
        assert snap.exists() == (done.returncode == 0)
        if snap.exists():
            verify(snap)
            saved, was = next(snap.glob("*.ram")).read_bytes(), there.content
            new = b"?" * len(was)
            assert saved in (was, was[: CUT_PAGES * PAGE], was + b"?" * PAGE, new)
    elif name == "punch" and change != "removed":
        content = (there.folder / "punched").read_bytes()
        assert content.startswith((there.content[: CUT_PAGES * PAGE], b"?" * len(there.content)))


def restored_to(there: Site, backup: Path) -> None:
    """The files are as they were, and nothing that was made of them is left."""
    for name in ("saved", "ram"):
        shutil.rmtree(there.folder / name, ignore_errors=True)
        (there.folder / name).unlink(missing_ok=True)
        copy(backup / name, there.folder)
    (there.folder / "other").unlink(missing_ok=True)
    there.clear()


def copy(path: Path, folder: Path) -> None:
    """With its holes."""
    subprocess.run(["cp", "-a", "--sparse=always", path, folder], check=True)


@pytest.mark.long
@pytest.mark.timeout(0)  # each command has its own
def test_a_file_that_changes(there: Site, tmp_path: Path, budget: Budget) -> None:
    for name in ("saved", "ram"):
        copy(there.folder / name, tmp_path)
    calls = dict.fromkeys(FILES, CALLS)
    for seed in budget.seeds(12):
        dice = random.Random(seed)
        name, change = dice.choice(list(FILES)), dice.choice(list(CHANGES))
        done = None
        while done is None:
            at = dice.randrange(calls[name])
            done = changed_at(there, name, change, at, tmp_path / "fault")
            calls[name] = calls[name] if done is not None else max(at, 1)
            try:
                if done is not None:
                    judge(there, name, change, done)
            except BaseException as error:
                error.add_note(f"seed {seed}: {name}, {change} before call {at}: {done}")
                raise
            finally:
                restored_to(there, tmp_path)
