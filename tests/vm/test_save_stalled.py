"""The snapshot's file system stops answering: the VM runs again, and the command ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.shm.owner import sweep
from pagecheck.snapshot import manifest
from tests.support import command
from tests.support.needs import needs_program, unavailable
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu

pytestmark = pytest.mark.timeout(120)
SLOW = ["save", "--quiet", "--channels", "1", "--max-rate", "4M"]


class Fuse:
    """A FUSE file system that passes everything on, while its program runs.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path, program: psutil.Process) -> None:
        self.folder = folder
        self._program = program

    def stall(self) -> None:
        self._program.suspend()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Fuse]:
    needs_program("bindfs", "bindfs")
    behind, front = tmp_path / "behind", tmp_path / "front"
    behind.mkdir()
    front.mkdir()
    before = set(psutil.pids())
    done = subprocess.run(["bindfs", str(behind), str(front)], capture_output=True, text=True)
    if done.returncode != 0:
        unavailable(f"needs FUSE: {done.stderr.strip()}")
    started = [
        each
        for each in psutil.process_iter(["name", "cmdline"])
        if each.pid not in before and str(front) in (each.info["cmdline"] or [])
    ]
    try:
        yield Fuse(front, started[0])
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            started[0].resume()
        subprocess.run(["umount", "-l", str(front)], check=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            started[0].kill()
        wait_for(lambda: not command.tagged_processes(), "the end of what was left")
        sweep(0)


def test_one_that_answers(qemu: BareQemu, fuse: Fuse) -> None:
    given = [f"qmp:{qemu.socket}", fuse.folder / "snap"]
    done = command.pagecheck("save", "--json", "--live", "--channels", "1", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["exact"] is True
    assert manifest.read(fuse.folder / "snap").exact
    assert [each.name for each in fuse.folder.iterdir()] == ["snap"]
    assert qemu.own_events() == ["STOP", "RESUME"]
    done = command.pagecheck("save", "--json", "--channels", "1", *given)
    command.assert_fails(done, 2, "snap: exists")


@pytest.mark.long(but="False")
@pytest.mark.parametrize("live", [False, True])
def test_one_that_stalls_in_the_pause(qemu: BareQemu, fuse: Fuse, live: bool) -> None:
    given = ["--max-pause", "0.5", f"qmp:{qemu.socket}", fuse.folder / "snap"]
    with command.start(*SLOW, *(["--live"] if live else []), *given) as running:
        qemu.wait_event("STOP")
        fuse.stall()
        qemu.wait_event("RESUME")
        out, err = running.communicate(timeout=20)
    assert out == ""
    assert running.returncode == 1
    said = "did not answer while the VM was stopped; the VM runs on, and nothing was saved"
    assert said in err
    assert "Traceback" not in err
    assert qemu.status() == "running"


def test_an_interrupt_while_it_stalls(qemu: BareQemu, fuse: Fuse) -> None:
    given = ["--max-pause", "60", f"qmp:{qemu.socket}", fuse.folder / "snap"]
    with command.start(*SLOW, *given) as running:
        qemu.wait_event("STOP")
        fuse.stall()
        os.kill(running.pid, signal.SIGINT)
        qemu.wait_event("RESUME")
        running.communicate(timeout=20)
    assert running.returncode == 130
    assert qemu.status() == "running"
