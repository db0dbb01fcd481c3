"""A QEMU that takes no state: a stand-in that speaks QMP, and what is said of it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagecheck.errors import PeerError
from pagecheck.snapshot import incoming
from pagecheck.snapshot.clone import Clones
from pagecheck.snapshot.incoming import IncomingQemu
from tests.support.signals import unnoticed_signal

STAND_IN = """
import json, signal, socket, sys

words = sys.argv
chardev = words[words.index("-chardev") + 1]
qmp = socket.socket(fileno=int(chardev.partition(",fd=")[2]))
state = socket.socket(fileno=int(words[words.index("-incoming") + 1].removeprefix("fd:")))
state.close()
qmp.sendall(b'{"QMP": {}}\\n')
for line in qmp.makefile():
    is_status = json.loads(line)["execute"] == "query-status"
    found = {"status": "inmigrate"} if is_status else {}
    qmp.sendall(json.dumps({"return": found}).encode() + b"\\n")
signal.pause()
"""


def test_one_that_hangs_up_and_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "END_S", 0.1)
    program = tmp_path / "qemu.py"
    program.write_text(STAND_IN)
    with tempfile.TemporaryFile() as state:
        state.write(b"state")
        state.flush()
        command = [sys.executable, os.fspath(program)]
        with IncomingQemu(command, name="stand-in") as qemu:
            qemu.wait_ready()
            with pytest.raises(PeerError, match="stand-in: refused the state, and"):
                qemu.load(state.fileno(), 5)
        assert qemu.process.returncode == -9


def test_a_signal_right_before_it_takes_no_more(tmp_path: Path) -> None:
    program = tmp_path / "qemu.py"
    program.write_text(STAND_IN.replace("state.close()\n", ""))
    with tempfile.TemporaryFile() as state:
        state.truncate(16 << 20)
        command = [sys.executable, os.fspath(program)]
        with IncomingQemu(command, name="stand-in") as qemu:
            qemu.wait_ready()
            with unnoticed_signal():
                qemu.load(state.fileno(), 16 << 20)


def test_without_a_second_pair_of_sockets_the_first_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[socket.socket] = []
    pair = socket.socketpair

    def once() -> tuple[socket.socket, socket.socket]:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.extend(pair())
        return made[0], made[1]

    monkeypatch.setattr(socket, "socketpair", once)
    with pytest.raises(OSError, match="Too many open files"):
        IncomingQemu(["true"])
    assert [each.fileno() for each in made] == [-1, -1]


def test_a_second_interrupt_leaves_no_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get time to end by themselves; who does not wait for that ends them at once."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)"
    qemus, removed = [], []
    for _ in range(2):
        words = [sys.executable, "-c", f"{stubborn}; time.sleep(600)"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        qemus.append(SimpleNamespace(process=process, close=process.stdout.close))

    def interrupted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        return wait(self)

    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    clones = Clones.__new__(Clones)
    clones._qemus = qemus  # type: ignore[assignment]
    clones._stack = contextlib.ExitStack()
    clones._stack.callback(removed.append, "files")
    with pytest.raises(KeyboardInterrupt):
        clones.close()
    assert [each.process.returncode for each in qemus] == [-9, -9]
    assert removed == ["files"]
