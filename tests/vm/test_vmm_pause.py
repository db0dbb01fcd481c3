"""A VM is stopped, let go again whatever dies, and never against somebody else's will."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.vmm import QemuMonitor
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tools.guest.fetch import GuestFiles

pytestmark = pytest.mark.usefixtures("clean")

HOME = Path(__file__).parents[2]
SECONDS = 20.0
ENDED = r"nobody listens|connection was lost|not connected"


@pytest.fixture(params=["q35", "microvm,acpi=off"])
def qemu(request: pytest.FixtureRequest, guest_files: GuestFiles) -> Iterator[BareQemu]:
    """Runs its firmware, which goes on for ever without a disk."""
    machine = f"{request.param},memory-backend=mem0"
    with bare_qemu(*memfd_backend("64M"), machine=machine) as running:
        running.own_events()
        yield running


def watchdog_of(parent: int) -> psutil.Process:
    children = psutil.Process(parent).children()
    (found,) = [
        each for each in children if "pagecheck.vmm.hold.watchdog" in " ".join(each.cmdline())
    ]
    return found


def test_a_running_vm_is_stopped_and_continued(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        assert monitor.peer_pid == qemu.pid
        assert not monitor.is_stopped()
        begun = time.monotonic_ns()
        monitor.pause(60)
        assert qemu.status() == "paused"
        assert monitor.is_stopped()
        result = monitor.resume()
        assert qemu.status() == "running"
        assert 0 < result.paused_ns < time.monotonic_ns() - begun
        assert result[1:4] == (True, False, True)
        monitor.pause(60)
        assert monitor.resume()[1:4] == (True, False, True)
    assert qemu.own_events() == ["STOP", "RESUME"] * 2


def test_a_vm_that_was_stopped_stays_stopped(qemu: BareQemu) -> None:
    qemu.qmp("stop")
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(60)
        assert monitor.resume()[:4] == (0, True, False, False)
        assert qemu.status() == "paused"
        monitor.pause(0.001)  # nothing to let go when it passes
        assert monitor.resume()[:4] == (0, True, False, False)
        monitor.pause(60)
    assert qemu.status() == "paused"
    assert qemu.own_events() == ["STOP"]


def test_close_continues_it(qemu: BareQemu) -> None:
    monitor = QemuMonitor(str(qemu.socket))
    monitor.pause(60)
    monitor.close()
    assert qemu.status() == "running"
    monitor.close()
    with pytest.raises(UsageError, match="is closed"):
        monitor.is_stopped()


def test_somebody_else_continues_it(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(60)
        qemu.qmp("cont")
        assert not monitor.is_stopped()
        result = monitor.resume()
        assert (result.stood_still, result.expired) == (False, False)
        assert qemu.status() == "running"


def test_somebody_else_continues_and_stops_it(qemu: BareQemu) -> None:
    """It looks as we left it, but it moved meanwhile, and it is theirs now."""
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(60)
        qemu.qmp("cont")
        qemu.qmp("stop")
        assert monitor.is_stopped()
        assert not monitor.resume().stood_still
        assert qemu.status() == "paused"
        monitor.pause(60)
        qemu.qmp("cont")
        qemu.qmp("stop")
    assert qemu.status() == "paused"


def test_somebody_else_continues_a_vm_that_was_stopped(qemu: BareQemu) -> None:
    qemu.qmp("stop")
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(60)
        qemu.qmp("cont")
        qemu.qmp("stop")
        assert monitor.resume()[:4] == (0, False, False, False)
    assert qemu.status() == "paused"


def test_a_reset_meanwhile_is_a_move(qemu: BareQemu) -> None:
    """A reset writes the firmware into the RAM of a VM that is stopped."""
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(60)
        qemu.qmp("system_reset")
        qemu.wait_event("RESET")
        result = monitor.resume()
        assert (result.stood_still, result.stopped_by_us) == (False, True)
        assert qemu.status() == "running"


def test_the_longest_time_passes(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(0.2)
        qemu.wait_event("RESUME")
        assert qemu.status() == "running"
        result = monitor.resume()
        assert result[1:4] == (False, True, True)
        assert 200_000_000 <= result.paused_ns < 5_000_000_000
        monitor.pause(60)
        assert monitor.resume()[1:4] == (True, False, True)


def test_pausing_twice_or_for_no_time(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        with pytest.raises(UsageError, match="is not paused"):
            monitor.resume()
        for seconds in (0, -1, float("nan"), float("inf")):
            with pytest.raises(UsageError, match="give more than 0"):
                monitor.pause(seconds)
        monitor.pause(60)
        with pytest.raises(UsageError, match="paused already"):
            monitor.pause(60)
        assert monitor.resume().stood_still
        assert qemu.status() == "running"


def test_commands(qemu: BareQemu) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        assert monitor.execute("query-memdev")[0]["id"] == "mem0"
        path = monitor.execute("qom-get", path="/machine", property="memory-backend")
        assert path == "/objects/mem0"
        with pytest.raises(PeerError, match="QEMU refused no-such"):
            monitor.execute("no-such")
        large = monitor.execute("query-qmp-schema")
        assert len(json.dumps(large)) > 100_000


_OWNER = """
import sys
from pagecheck.vmm import QemuMonitor
monitor = QemuMonitor(sys.argv[1])
monitor.pause(600)
print("paused", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("inherited", [False, True])
def test_the_owner_is_killed(qemu: BareQemu, inherited: bool) -> None:
    """Also where a forked child still holds the owner's end of the socket pair."""
    program = _OWNER
    if inherited:
        program = program.replace("sys.stdin", "import os\nos.fork()\nsys.stdin")
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(qemu.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HOME,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"paused\n"
        assert qemu.status() == "paused"
        watchdog = watchdog_of(owner.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            os.kill(watchdog.pid, number)  # it is deaf to them
        assert os.getsid(watchdog.pid) == watchdog.pid
        gone = os.pidfd_open(watchdog.pid)
        owner.kill()
        qemu.wait_event("RESUME")
        assert qemu.status() == "running"
        assert select.select([gone], [], [], SECONDS)[0], "the watchdog is still there"
        os.close(gone)


def killed() -> None:
    """Kills the watchdog, and waits until its connection is closed."""
    watchdog = watchdog_of(os.getpid())
    gone = os.pidfd_open(watchdog.pid)
    watchdog.kill()
    assert select.select([gone], [], [], SECONDS)[0]
    os.close(gone)


@pytest.mark.long(but="q35")
@pytest.mark.parametrize("call", ["resume", "is_stopped", "execute"])
def test_the_watchdog_is_killed_and_the_next_call_notices(qemu: BareQemu, call: str) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(600)
        killed()
        calls = {
            "resume": monitor.resume,
            "is_stopped": monitor.is_stopped,
            "execute": lambda: monitor.execute("query-status"),
        }
        with pytest.raises(SourceError, match=r"watchdog .* by signal 9; the VM was continued"):
            calls[call]()
        assert qemu.status() == "running"
        monitor.pause(600)  # the next one serves
        assert qemu.status() == "paused"
        assert monitor.resume().stood_still


def test_the_watchdog_is_killed_and_close_notices(qemu: BareQemu) -> None:
    monitor = QemuMonitor(str(qemu.socket))
    monitor.pause(600)
    killed()
    monitor.close()
    assert qemu.status() == "running"


def test_a_dead_watchdog_continues_nothing_of_others(qemu: BareQemu) -> None:
    qemu.qmp("stop")
    with QemuMonitor(str(qemu.socket)) as monitor:
        monitor.pause(600)
        killed()
        with pytest.raises(SourceError, match="connection was made again"):
            monitor.resume()
        assert qemu.status() == "paused"
        monitor.pause(600)
        killed()
    assert qemu.status() == "paused"


def test_an_exception_in_the_middle_of_a_call(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nobody waited for is not taken for the next one."""
    from pagecheck.child.wire import Link

    receive = Link.receive

    def interrupted(self: Link, deadline_ns: int) -> None:
        monkeypatch.setattr(Link, "receive", receive)
        raise KeyboardInterrupt

    with QemuMonitor(str(qemu.socket)) as monitor:
        monkeypatch.setattr(Link, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            monitor.execute("query-memdev")
        assert monitor.execute("query-status")["status"] == "running"


@pytest.mark.parametrize("paused", [False, True])
def test_qemu_is_killed(qemu: BareQemu, paused: bool, caplog: pytest.LogCaptureFixture) -> None:
    with QemuMonitor(str(qemu.socket)) as monitor:
        if paused:
            monitor.pause(600)
        qemu.process.kill()
        qemu.process.wait(SECONDS)
        begun = time.monotonic()
        with pytest.raises(PeerError, match=ENDED):
            monitor.resume() if paused else monitor.is_stopped()
        with pytest.raises(PeerError, match=ENDED):
            monitor.execute("query-status")
    assert time.monotonic() - begun < SECONDS
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
