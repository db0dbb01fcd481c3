"""A crosvm suspended and resumed by its own program, both stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pagecheck
from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm import VmmMonitor
from pagecheck.vmm.hold import crosvm_control
from pagecheck.vmm.hold.crosvm_control import CrosvmControl
from pagecheck.vmm.hold.hold import Hold
from pagecheck.vmm.hold.listener import Listener
from pagecheck.vmm.kinds import CROSVM
from tests.support.crosvm import PAGES, Crosvm, put_on_path
from tests.support.processes import children_of, kill, state_of
from tests.support.qmp import in_watchdog
from tests.support.waiting import Background, wait_for

pytestmark = pytest.mark.usefixtures("clean")

BOUND_S = 30.0


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
        with pytest.raises(SourceError, match="the VM was continued; start again"):
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


@contextlib.contextmanager
def control_of(crosvm: Crosvm) -> Iterator[CrosvmControl]:
    """As in a watchdog that replaces a dead one, before it connected."""
    found = crosvm.path.stat()
    known = Listener(crosvm.process.pid, found.st_dev, found.st_ino)
    control = CrosvmControl(str(crosvm.path), known)
    try:
        yield control
    finally:
        asyncio.run(control.close())
        if (pidfd := control._place._pidfd) is not None:
            os.close(pidfd)


def test_a_watchdog_that_never_connected_resumes_it(crosvm: Crosvm) -> None:
    """One that replaces a dead watchdog, and whose owner died at once."""
    crosvm.ask("suspend")

    said: list[str] = []

    async def rescue(control: CrosvmControl) -> None:
        hold = Hold(control, said.append)
        hold.adopt()
        async with asyncio.timeout(BOUND_S):
            await hold.resume_if_ours()

    with control_of(crosvm) as control:
        asyncio.run(rescue(control))
    assert said == []
    assert crosvm.runs()


def test_one_that_is_not_seen_suspended_is_resumed(
    crosvm: Crosvm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program said that it is; vCPUs that wait in another way look as if they ran."""
    code = "c.SUSPENDED_S = 0; c._FUTEX[c.platform.machine()] = '-1'"
    in_watchdog(monkeypatch, f"import pagecheck.vmm.hold.crosvm_control as c; {code}")
    with monitor_of(crosvm) as monitor:
        monitor.pause(60)
        assert crosvm.is_suspended()
        assert not monitor.resume().stood_still
        assert crosvm.runs()


def status_of(crosvm: Crosvm) -> str:
    with control_of(crosvm) as control:
        return asyncio.run(control.status())


def test_a_vcpu_that_is_woken_for_a_moment(crosvm: Crosvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM that is suspended and taken for one that runs would not be resumed."""
    crosvm.ask("suspend")
    looks = iter([{1: "running"}])
    real = crosvm_control.system_calls
    monkeypatch.setattr(crosvm_control, "system_calls", lambda *of: next(looks, None) or real(*of))
    assert status_of(crosvm) == crosvm_control.PAUSED
    crosvm.ask("resume")
    assert crosvm.runs()
    assert status_of(crosvm) == crosvm_control.RUNNING


def test_on_a_machine_whose_system_calls_are_not_known(
    crosvm: Crosvm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody suspended would be taken for one that runs, and resumed."""
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(SourceError, match=r"whether it is suspended cannot be seen on a vax"):
        status_of(crosvm)


def test_a_program_that_is_stuck_after_its_request(
    crosvm: Crosvm, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM is suspended, and another program resumes it in the end."""
    code = "c.COMMAND_S = 0.5; c.ABANDON_S = 1.0; w.END_S = 0.5"
    modules = "import pagecheck.vmm.hold.crosvm_control as c, pagecheck.vmm.hold.watchdog as w"
    in_watchdog(monkeypatch, f"{modules}; {code}")
    good = program.read_text()
    never = Path(f"{program}.never")
    os.mkfifo(never)
    stuck = f'"$@"; [ $1 = resume ] || read _ <{never}\n'
    program.write_text(good.replace("exec ", "").replace('"$@"\n', stuck))
    with monitor_of(crosvm) as monitor:
        with pytest.raises(PeerError, match=r"crosvm suspend did not end in"):
            monitor.pause(60)
        assert crosvm.is_suspended()
    assert crosvm.runs()
    for each in children_of(os.getpid()):
        if each != crosvm.process.pid:
            psutil.Process(each).wait(BOUND_S)


def test_the_watchdog_is_killed_while_it_is_suspended(crosvm: Crosvm, program: Path) -> None:
    """What it started does not suspend the VM after another watchdog resumed it."""
    began, go = Path(f"{program}.began"), Path(f"{program}.go")
    os.mkfifo(go)
    wait = f'[ "$1" = resume ] || {{ : >{began}; read _ <{go}; }}\nexec '
    program.write_text(program.read_text().replace("exec ", wait))
    with monitor_of(crosvm) as monitor:
        assert monitor._process is not None
        watchdog = monitor._process.pid
        pausing = Background(lambda: monitor.pause(60))
        wait_for(began.exists, "its program was started")
        (child,) = children_of(watchdog)
        kill(watchdog)
        with pytest.raises(SourceError, match="the VM was continued; start again"):
            pausing.result(BOUND_S)
        wait_for(lambda: state_of(child) in ("Z", ""), "its program ended")
    assert crosvm.runs()
