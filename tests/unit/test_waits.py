"""No wait of a command ignores a signal that came right before it."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import pytest

from pagecheck import aside, clock
from pagecheck.child.process import reap_left_behind
from pagecheck.snapshot import syncing
from pagecheck.snapshot.programs import run_program
from pagecheck.snapshot.qmp_session import QmpSession
from tests.support.signals import unnoticed_signal
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.timeout(120)]

LONG_S = 60.0


def test_a_descriptor_and_a_sleep() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with unnoticed_signal():
            clock.wait_ready(ours.fileno(), clock.now_ns() + int(LONG_S * 1e9))
        with unnoticed_signal():
            clock.sleep_s(LONG_S)


def test_a_process_that_works_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_BOOT", "import signal; signal.pause()")
    for until in (None, clock.now_s() + LONG_S):
        child = aside.Child("pagecheck.oneshot", "scan", {"source": "/net/ram"})
        try:
            with unnoticed_signal():
                child.receive(until)
        finally:
            child.end(answered=False, clean_up_s=0.1)
    wait_for(lambda: reap_left_behind() == 0, "the end of both")


def test_qemu() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, unnoticed_signal():
        QmpSession(ours, "QEMU").greet(clock.now_s() + LONG_S)


def test_a_program() -> None:
    with unnoticed_signal():
        run_program(sys.executable, ["-c", f"import time; time.sleep({LONG_S})"], LONG_S)


def test_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(syncing, "sync", lambda _fd: over.wait(LONG_S))
    with (tmp_path / "ram").open("wb") as file:
        working = syncing.Syncing([file.fileno()])
    try:
        with unnoticed_signal():
            working.wait()
    finally:
        over.set()
    working.wait()


def test_a_signal_that_python_dropped_ends_what_works_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who shows the progress asks for it, also where there is none."""
    asked = []

    def progress(done: int, total: int) -> None:
        asked.append((done, total))
        if len(asked) == 3:
            raise KeyboardInterrupt

    boot = (
        "import signal, socket, sys; sys.path.append(sys.argv[1])\n"
        "from pagecheck import aside; s = socket.socket(fileno=int(sys.argv[2]))\n"
        "s.sendall(aside._packed(('progress', 1, 2))); signal.pause()"
    )
    monkeypatch.setattr(aside, "_BOOT", boot)
    with pytest.raises(KeyboardInterrupt):
        aside.save("fuse", {"source": "qmp:/run/vm", "directory": "/net/snap"}, progress)
    assert asked == [(1, 2)] * 3
