"""A crosvm suspended and resumed by its own program, both stand-ins."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm import VmmMonitor
from pagecheck.vmm.kinds import CROSVM
from tests.support.crosvm import PAGES, Crosvm, put_on_path
from tests.support.processes import kill

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program crosvm, on PATH."""
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def crosvm(tmp_path: Path) -> Iterator[Crosvm]:
    running = Crosvm(tmp_path)
    yield running
    running.end()


def monitor_of(crosvm: Crosvm) -> VmmMonitor:
    return VmmMonitor(CROSVM, str(crosvm.path))


def test_it_is_suspended_and_resumed(crosvm: Crosvm) -> None:
    with monitor_of(crosvm) as monitor:
        assert monitor.peer_pid == crosvm.process.pid
        assert not monitor.is_stopped()
        monitor.pause(60)
        assert crosvm.is_suspended()
        result = monitor.resume()
        assert (result[1:], monitor.why_moved) == ((True, False, True, False), "")
        assert crosvm.runs()


def test_one_that_was_suspended_stays_so(crosvm: Crosvm) -> None:
    crosvm.ask("suspend")
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        assert monitor.resume() == (0, True, False, False, False)
        assert monitor.is_stopped()


def test_somebody_else_resumes_it(crosvm: Crosvm) -> None:
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        crosvm.ask("resume")
        assert crosvm.runs()
        crosvm.ask("suspend")
        assert not monitor.resume().stood_still
        assert "ran while the VM was paused" in monitor.why_moved
    assert crosvm.runs()


def test_a_device_of_its_own_process_writes(crosvm: Crosvm) -> None:
    """Its main process sleeps: what a descendant does counts as well."""
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        crosvm.write()
        assert not monitor.resume().stood_still


def test_a_scan(crosvm: Crosvm) -> None:
    report = pagecheck.scan(f"crosvm:{crosvm.path}", pause=True, channels=1, engine="cpu")
    assert report.answer == "paused"
    assert report.total.normal == PAGES // 2
    assert crosvm.runs()


def test_the_watchdog_is_killed(crosvm: Crosvm) -> None:
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        assert monitor._process is not None
        kill(monitor._process.pid)
        assert crosvm.runs()
        with pytest.raises(SourceError, match="the VM was continued; start the scan again"):
            monitor.resume()


def test_a_program_that_fails(crosvm: Crosvm, program: Path) -> None:
    good = program.read_text()
    with monitor_of(crosvm) as monitor:
        program.write_text("#!/bin/sh\necho no such >&2; exit 3\n")
        with pytest.raises(PeerError, match=r"crosvm (suspend|resume) failed .*3: no such"):
            monitor.pause(60)
        program.write_text(good)
    assert crosvm.runs()


def test_it_is_not_on_path(crosvm: Crosvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SourceError, match=r"crosvm is not on PATH.*scan it as pid:\d+ without"):
        monitor_of(crosvm)


def test_it_ends_while_it_is_suspended(crosvm: Crosvm) -> None:
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        kill(crosvm.process.pid)
        crosvm.process.wait()  # all of its threads
        ended = r"nobody listens any more .*: crosvm ended"
        with pytest.raises(PeerError, match=ended):
            monitor.resume()


def test_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SourceError, match=r"has no thread of a vCPU: .* is not crosvm"):
            VmmMonitor(CROSVM, str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "stream"))
        listener.listen()
        with pytest.raises(SourceError, match=r"cannot connect: Protocol wrong type"):
            VmmMonitor(CROSVM, str(tmp_path / "stream"))


def test_another_vm_at_its_path(crosvm: Crosvm, tmp_path: Path) -> None:
    """The program is given the socket itself."""
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        crosvm.path.rename(tmp_path / "old")
        (tmp_path / "other").mkdir()
        other = Crosvm(tmp_path / "other")
        try:
            other.path.rename(crosvm.path)
            subprocess.run(["crosvm", "suspend", "--full", str(crosvm.path)], check=True)
            assert monitor.resume().stopped_by_us
            assert crosvm.runs()
            assert other.is_suspended()
        finally:
            other.end()
