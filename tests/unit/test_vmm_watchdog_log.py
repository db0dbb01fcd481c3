"""What a watchdog says can neither block nor kill it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import pytest

from pagecheck.vmm.hold import watchdog_log

pytestmark = pytest.mark.usefixtures("clean")


def test_a_line_for_stderr_and_the_systems_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog_log, "SYSTEM_LOG", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(watchdog_log.SYSTEM_LOG)
        watchdog_log.write_line("qmp:x: the VM runs on")
        line = f"pagecheck[{os.getpid()}]: watchdog: qmp:x: the VM runs on"
        assert log.recv(4096).decode() == f"<28>{line}"
    assert capsys.readouterr().err == f"{line}\n"


def test_a_log_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_log, "SYSTEM_LOG", str(tmp_path / "log"))
    watchdog_log.write_line("nobody listens there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(watchdog_log.SYSTEM_LOG)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x", watchdog_log.SYSTEM_LOG)
        watchdog_log.write_line("its queue is full")


class Full:
    """A stream that takes nothing."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_stderr_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_log, "SYSTEM_LOG", "/nowhere")
    monkeypatch.setattr(sys, "stderr", Full())
    watchdog_log.write_line("no room")
