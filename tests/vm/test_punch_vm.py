"""A VM's shared RAM is punched while it is stopped; it goes on, and its own checks hold."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import PagecheckError, SourceError, UsageError
from pagecheck.snapshot import punch_vm
from pagecheck.vmm import Vm, writers
from tests.support.command import assert_fails
from tests.support.command import pagecheck as command
from tests.support.guests import booted
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.timeout(120)]

PAGE, MIB = 4096, 1 << 20


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("punch") / "qmp"


@pytest.fixture(scope="module")
def running(guest_files: GuestFiles, socket: Path) -> Iterator[Guest]:
    """A guest with much memory that it wrote zeros to."""
    extra = ("-qmp", f"unix:{socket},server=on,wait=off")
    with booted(backend="memfd", random_mb=8, zeros_mb=64, check_every_s=0.2, extra=extra) as guest:
        yield guest


def allocated(guest: Guest) -> int:
    return os.stat(guest.ram_path).st_blocks * 512


def assert_goes_on(guest: Guest) -> None:
    assert guest.qmp("query-status")["status"] == "running"
    assert guest.wait_check().endswith("OK")


def test_zero_pages_come_back_and_the_guest_goes_on(running: Guest, socket: Path) -> None:
    before = allocated(running)
    dry = pagecheck.punch(f"qmp:{socket}", dry_run=True)
    assert dry.zero_bytes >= 64 * MIB
    assert allocated(running) >= before
    report = pagecheck.punch(f"qmp:{socket}")
    assert (report.proof, report.why_incomplete) == ("pause", None)
    assert report.pause is not None
    assert report.pause.stood_still
    assert report.pause.stopped_by_us
    assert report.zero_bytes >= 64 * MIB
    assert report.freed_bytes >= 64 * MIB
    assert allocated(running) <= before - 60 * MIB
    assert_goes_on(running)


def test_a_vm_that_was_stopped_stays_stopped(running: Guest, socket: Path) -> None:
    running.pause()
    content = Path(running.ram_path).read_bytes()
    report = pagecheck.punch(f"qmp:{socket}")
    assert report.pause is not None
    assert not report.pause.stopped_by_us
    assert running.qmp("query-status")["status"] == "paused"
    assert Path(running.ram_path).read_bytes() == content
    assert pagecheck.punch(f"qmp:{socket}").zero_bytes == 0
    running.resume()
    assert_goes_on(running)


@pytest.fixture
def qemu(guest_files: GuestFiles) -> Iterator[BareQemu]:
    """Stopped, so that its RAM is what a test writes there."""
    with bare_qemu(*memfd_backend("64M"), "-S", machine="q35,memory-backend=mem0") as bare:
        yield bare


def ram_of(qemu: BareQemu) -> Path:
    folder = Path(f"/proc/{qemu.pid}/fd")
    return next(fd for fd in folder.iterdir() if "memory-backend-memfd" in os.readlink(fd))


def write(qemu: BareQemu, content: bytes, offset: int) -> None:
    fd = os.open(ram_of(qemu), os.O_RDWR)
    try:
        os.pwrite(fd, content, offset)
    finally:
        os.close(fd)


def test_what_is_written_after_it_was_found_stays(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero when the scan looked, and no more when the VM is stopped."""
    write(qemu, bytes(8 * MIB), 16 * MIB)
    run = punch_vm.VmPunch.run

    def late(self: punch_vm.VmPunch, found: Any) -> Any:
        for page in range(0, 2048, 5):
            write(qemu, b"late", 16 * MIB + page * PAGE + 4000)
        return run(self, found)

    monkeypatch.setattr(punch_vm.VmPunch, "run", late)
    report = pagecheck.punch(f"qmp:{qemu.socket}")
    assert report.freed_bytes == report.zero_bytes
    assert 0 < report.zero_bytes <= 8 * MIB - 410 * PAGE
    content = ram_of(qemu).read_bytes()
    for page in range(0, 2048, 5):
        at = 16 * MIB + page * PAGE + 4000
        assert content[at : at + 4] == b"late"


def test_a_vm_that_somebody_continues_is_left_alone(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(qemu, bytes(64 * MIB), 0)
    qemu.qmp("cont")
    real = punch_vm.requests

    def requests(*given: Any) -> Iterator[Any]:
        for number, each in enumerate(real(*given)):
            if number == 1:
                qemu.qmp("cont")
            yield each

    monkeypatch.setattr(punch_vm, "requests", requests)
    report = pagecheck.punch(f"qmp:{qemu.socket}")
    assert report.why_incomplete is not None
    assert "by somebody else" in report.why_incomplete
    assert report.zero_bytes <= 16 * MIB
    assert qemu.status() == "running"


def test_the_longest_pause_is_kept(qemu: BareQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    write(qemu, bytes(64 * MIB), 0)
    qemu.qmp("cont")
    monkeypatch.setattr(punch_vm, "USED_SHARE", 1e-9)
    report = pagecheck.punch(f"qmp:{qemu.socket}", max_pause=30)
    assert report.why_incomplete is not None
    assert "stopped for 30 s at most" in report.why_incomplete
    assert report.zero_bytes == 0
    assert qemu.status() == "running"
    monkeypatch.undo()
    assert pagecheck.punch(f"qmp:{qemu.socket}").why_incomplete is None


@pytest.mark.parametrize("what", ["hole", "progress"])
def test_it_runs_again_after_an_error(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    write(qemu, bytes(64 * MIB), 0)
    qemu.qmp("cont")
    stopped = []

    def fail(*_given: Any) -> Any:
        stopped.append(qemu.status())
        raise PagecheckError("a test's error")

    if what == "hole":
        monkeypatch.setattr(Vm, "punch", fail)
    else:
        monkeypatch.setattr(punch_vm, "requests", fail)
    with pytest.raises(PagecheckError, match="a test's error"):
        pagecheck.punch(f"qmp:{qemu.socket}")
    assert stopped == ["paused"]
    assert qemu.status() == "running"


def test_it_runs_again_when_its_watchdog_is_killed(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(qemu, bytes(64 * MIB), 0)
    qemu.qmp("cont")
    real = Vm.punch

    def kill(self: Vm, *given: Any) -> Any:
        assert self._monitor is not None
        assert self._monitor._process is not None
        os.kill(self._monitor._process.pid, signal.SIGKILL)
        return real(self, *given)

    monkeypatch.setattr(Vm, "punch", kill)
    with pytest.raises(SourceError, match="was killed by signal 9; the VM was continued"):
        pagecheck.punch(f"qmp:{qemu.socket}")
    assert qemu.status() == "running"


# The command, which ends when the VM is stopped and the first of its holes are made.
_ENDED = """
import os, runpy, sys
from pagecheck.vmm import Vm
number, *sys.argv[1:] = sys.argv[1:]
real = Vm.punch
def punch(*given):
    done = real(*given)
    os.kill(os.getpid(), int(number))
    return done
Vm.punch = punch
runpy.run_module("pagecheck", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 128 + signal.SIGINT)]
)
def test_it_runs_again_when_we_are_ended(qemu: BareQemu, number: int, status: int) -> None:
    write(qemu, bytes(64 * MIB), 0)
    write(qemu, b"here", 48 * MIB)
    qemu.qmp("cont")
    qemu.own_events()
    ram = ram_of(qemu)
    words = [sys.executable, "-P", "-c", _ENDED, str(int(number)), "punch", f"qmp:{qemu.socket}"]
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert done.returncode == status, done.stderr
    qemu.wait_event("STOP")
    wait_for(lambda: qemu.status() == "running", "it runs")
    assert 16 * MIB < ram.stat().st_blocks * 512 < 60 * MIB, "some of the holes"
    assert ram.read_bytes()[48 * MIB : 48 * MIB + 4] == b"here"


def test_private_ram_is_refused(guest_files: GuestFiles) -> None:
    with bare_qemu("-m", "64M", machine="q35") as qemu:
        done = command("punch", f"qmp:{qemu.socket}")
        assert_fails(done, 2, "is private to its VMM: no other process can make holes there")
        assert qemu.status() == "running"
        with pytest.raises(UsageError, match="nothing there stops the VM"):
            pagecheck.punch(f"pid:{qemu.pid}")


def test_a_device_that_writes_by_itself_is_refused(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(qemu, bytes(MIB), 0)
    before = ram_of(qemu).stat().st_blocks
    monkeypatch.setattr(writers, "devices", lambda _monitor: {"gpu": "vfio-pci"})
    with pytest.raises(SourceError, match="device gpu is vfio-pci, and may write to its RAM"):
        pagecheck.punch(f"qmp:{qemu.socket}")
    monkeypatch.undo()
    monkeypatch.setattr(writers, "_PATHS", ("anon_inode:[eventfd]",))
    with pytest.raises(SourceError, match=r"has anon_inode:\[eventfd\] open, and may write"):
        pagecheck.punch(f"qmp:{qemu.socket}")
    assert ram_of(qemu).stat().st_blocks == before


@contextlib.contextmanager
def another_writer(qemu: BareQemu) -> Iterator[str]:
    """A process with the RAM open for writing, as behind a vhost-user device; what is said of it"""
    with ram_of(qemu).open("r+b") as ram:
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(ram.fileno(),))
    try:
        yield rf"process {other.pid} \(cat\) has it open for writing"
    finally:
        other.kill()
        other.communicate()


def test_another_process_that_maps_the_ram_is_refused(qemu: BareQemu) -> None:
    write(qemu, bytes(MIB), 0)
    with another_writer(qemu) as who, pytest.raises(SourceError, match=who):
        pagecheck.punch(f"qmp:{qemu.socket}")
    assert pagecheck.punch(f"qmp:{qemu.socket}").freed_bytes >= MIB


def test_one_that_comes_after_the_first_look_is_seen_while_the_vm_is_stopped(
    qemu: BareQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(qemu, bytes(MIB), 0)
    qemu.qmp("cont")
    pause = Vm.pause
    with contextlib.ExitStack() as stack:

        def late(vm: Vm, seconds: float) -> None:
            pause(vm, seconds)
            said.append(stack.enter_context(another_writer(qemu)))

        said: list[str] = []
        monkeypatch.setattr(Vm, "pause", late)
        with pytest.raises(SourceError, match="may write to its RAM") as refused:
            pagecheck.punch(f"qmp:{qemu.socket}")
        assert re.search(said[0], str(refused.value))
        assert qemu.status() == "running"
        assert ram_of(qemu).stat().st_blocks * 512 >= MIB
