"""QEMU, the watchdog or its owner stands still or dies at a bad moment: the VM runs in the end."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.hold import pause, watchdog_process
from tests.support.qmp import in_watchdog
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tests.vm.test_vmm_pause import HOME, SECONDS, killed, watchdog_of
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("clean")]

IMPATIENT = (
    "import pagecheck.vmm.hold.watchdog as w, pagecheck.vmm.hold.monitor as m, "
    "pagecheck.vmm.hold.listener as n; "
    "w.END_S = m.COMMAND_S = m.CONNECT_S = n.CONNECT_S = 0.5"
)
STAYS = r"the VM is stopped: watchdog (\d+) stays and continues it"


@pytest.fixture
def qemu(guest_files: GuestFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[BareQemu]:
    """Runs its firmware; watchdogs lose patience with it soon."""
    in_watchdog(monkeypatch, IMPATIENT)
    with bare_qemu(*memfd_backend("64M"), machine="q35,memory-backend=mem0") as running:
        running.own_events()
        try:
            yield running
        finally:
            running.process.send_signal(signal.SIGCONT)


def left_behind(text: str) -> psutil.Process:
    match = re.search(STAYS, text)
    assert match is not None, text
    return psutil.Process(int(match[1]))


def goes_on(qemu: BareQemu, watchdog: psutil.Process) -> None:
    qemu.process.send_signal(signal.SIGCONT)
    qemu.wait_event("RESUME")
    assert qemu.status() == "running"
    watchdog.wait(SECONDS)


def test_qemu_is_frozen_at_the_end(qemu: BareQemu, caplog: pytest.LogCaptureFixture) -> None:
    monitor = QemuMonitor(str(qemu.socket))
    monitor.pause(600)
    qemu.process.send_signal(signal.SIGSTOP)
    monitor.close()
    monitor.close()
    goes_on(qemu, left_behind(caplog.text))


def test_qemu_is_frozen_when_it_is_to_go_on(
    qemu: BareQemu, caplog: pytest.LogCaptureFixture
) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(600)
        qemu.process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerError, match=rf"did not answer .*; {STAYS}") as caught:
            monitor.resume()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    goes_on(qemu, left_behind(str(caught.value)))


def test_qemu_is_frozen_and_killed(qemu: BareQemu, caplog: pytest.LogCaptureFixture) -> None:
    monitor = QemuMonitor(str(qemu.socket))
    monitor.pause(600)
    qemu.process.send_signal(signal.SIGSTOP)
    monitor.close()
    watchdog = left_behind(caplog.text)
    qemu.process.kill()
    watchdog.wait(SECONDS)


def test_qemu_is_frozen_when_it_is_stopped(qemu: BareQemu) -> None:
    """A `stop` that it has not heard yet is undone, once it has."""
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.execute("query-name")
        qemu.process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerError, match="did not answer"):
            monitor.pause(600)
        qemu.process.send_signal(signal.SIGCONT)
        monitor.pause(600)
        assert monitor.resume().stood_still
    assert qemu.status() == "running"


def test_the_watchdog_is_killed_and_nobody_asks(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(600)
        killed()
        qemu.wait_event("RESUME")
        assert qemu.status() == "running"
        with pytest.raises(SourceError, match=r"by signal 9.*; the VM was continued; start again"):
            monitor.resume()
        monitor.pause(600)
        assert monitor.resume().stood_still


def test_the_watchdog_is_killed_while_qemu_is_frozen(
    qemu: BareQemu, caplog: pytest.LogCaptureFixture
) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(600)
        qemu.process.send_signal(signal.SIGSTOP)
        killed()
        with pytest.raises(SourceError, match=rf"was killed by signal 9.*; {STAYS}") as caught:
            monitor.resume()
    goes_on(qemu, left_behind(str(caught.value)))


def test_the_watchdog_is_frozen_beyond_the_longest_time(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "GRACE_S", 0.1)
    monkeypatch.setattr(watchdog_process, "SILENT_S", 1)
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(0.5)
        watchdog_of(os.getpid()).suspend()
        qemu.wait_event("RESUME")
        assert qemu.status() == "running"
        with pytest.raises(SourceError, match=r"does not answer; the VM was continued"):
            monitor.resume()


def test_the_watchdog_is_frozen_at_the_end(qemu: BareQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_process, "SILENT_S", 1)
    monitor = QemuMonitor(str(qemu.socket))
    monitor.pause(600)
    watchdog_of(os.getpid()).suspend()
    monitor.close()
    assert qemu.status() == "running"


_OWNER = """
import sys
from pagecheck.vmm import QemuMonitor
monitor = QemuMonitor(sys.argv[1])
monitor.pause(0.5)
print("paused", flush=True)
sys.stdin.readline()
print(monitor.resume().expired, flush=True)
monitor.close()
"""


@contextlib.contextmanager
def owner(qemu: BareQemu, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which holds the VM."""
    code = watchdog_process.PROGRAM.code
    begin = f"import pagecheck.vmm.hold.watchdog_process as p; p.PROGRAM.code = {code!r}\n"
    command = [sys.executable, "-c", begin + program, str(qemu.socket)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=HOME, **pipes) as running:  # type: ignore[call-overload]
        assert running.stdout is not None
        assert running.stdout.readline() == b"paused\n"
        yield running


def test_the_owner_is_frozen(qemu: BareQemu) -> None:
    with owner(qemu, _OWNER) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        qemu.wait_event("RESUME")
        frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate(b"\n", SECONDS) == (b"True\n", b"")


def test_the_owner_is_killed_while_qemu_is_frozen(qemu: BareQemu) -> None:
    """Whoever reads the owner's streams does not wait for the watchdog."""
    with owner(qemu, _OWNER.replace("0.5", "600")) as dead:
        watchdog = watchdog_of(dead.pid)
        said = Path(f"/proc/{watchdog.pid}/fd/2")
        qemu.process.send_signal(signal.SIGSTOP)
        dead.kill()
        assert dead.communicate(timeout=SECONDS) == (b"", b"")
    while "the VM is stopped, and continued as soon as" not in said.read_text():
        assert watchdog.is_running()
    assert f"pagecheck[{watchdog.pid}]" in said.read_text()
    goes_on(qemu, watchdog)


@pytest.mark.parametrize(
    ("name", "error"),
    [("eventfd", OSError(24, "Too many open files")), ("pidfd_open", OSError(1, "not here"))],
)
def test_without_anybody_to_look_after_the_watchdog(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError
) -> None:
    """Then the next call notices."""

    def refuse(*_arguments: object) -> int:
        raise error

    with QemuMonitor(str(qemu.socket)) as monitor:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            monitor.pause(600)
        killed()
        with pytest.raises(SourceError, match=r"was killed by signal 9.*; the VM was continued"):
            monitor.resume()
    assert qemu.status() == "running"
