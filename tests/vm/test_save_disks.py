"""A VM with a disk that it can write to, saved: the disk's content of the same moment is kept, or
the user said that nobody keeps it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import OutputError, SourceError, UsageError
from pagecheck.snapshot import manifest
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.qemu_parts import QemuParts
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.ram import PauseResult
from tests.support.processes import start_program
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.timeout(120)]


@pytest.fixture
def disk(shm_folder: Path) -> Path:
    path = shm_folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return path


@pytest.fixture
def qemu(guest_files: GuestFiles, disk: Path) -> Iterator[BareQemu]:
    """Runs its firmware beside a virtio disk."""
    drive = f"file={disk},format=qcow2,if=none,id=hd"
    with bare_qemu("-drive", drive, "-device", "virtio-blk-pci,drive=hd", size="64M") as running:
        running.own_events()
        yield running


def top(qemu: BareQemu) -> str:
    """The file that the disk is written to."""
    return str(qemu.qmp("query-block")[0]["inserted"]["file"])


def test_nothing_was_said(qemu: BareQemu, shm_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"disk hd can be written.*--disks overlay.*--then quit"):
        pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1)
    assert qemu.own_events() == []
    assert not (shm_folder / "snap").exists()


def test_overlay(qemu: BareQemu, disk: Path, shm_folder: Path) -> None:
    name = f"qmp:{qemu.socket}"
    report = pagecheck.save(name, shm_folder / "snap", channels=1, disks="overlay")
    overlay = top(qemu)
    assert report.overlays == (("hd", overlay),)
    assert os.path.dirname(overlay) == str(shm_folder)
    (kept,) = manifest.read(shm_folder / "snap").disks
    assert kept[:6] == ("hd", str(disk), "qcow2", True, "overlay", overlay)
    assert kept.other["written_ns"] == disk.stat().st_mtime_ns
    assert qemu.own_events() == ["STOP", "RESUME"]


def test_none(qemu: BareQemu, disk: Path, shm_folder: Path) -> None:
    report = pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, disks="none")
    assert report.overlays == ()
    (kept,) = manifest.read(shm_folder / "snap").disks
    assert kept[:6] == ("hd", str(disk), "qcow2", True, "none", None)
    assert top(qemu) == str(disk)


def test_quit(qemu: BareQemu, disk: Path, shm_folder: Path) -> None:
    report = pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, then="quit")
    assert report.ended
    assert qemu.process.wait(0) == 0
    (kept,) = manifest.read(shm_folder / "snap").disks
    assert kept[:6] == ("hd", str(disk), "qcow2", True, "quit", None)
    assert kept.other["written_ns"] == disk.stat().st_mtime_ns


# A save that is killed right before or after it asks for QEMU's end.
_KILLED = """
import os, signal, sys
import pagecheck
from pagecheck.vmm.hold.watchdog_process import WatchdogProcess
send = WatchdogProcess.send
def send_and_die(self, message, fds=()):
    ends = "quit" in message
    if not ends or {asked}:
        send(self, message, fds)
    if ends:
        os.kill(os.getpid(), signal.SIGKILL)
WatchdogProcess.send = send_and_die
pagecheck.save({source!r}, {snap!r}, channels=1, then="quit")
"""


@pytest.mark.parametrize("asked", [False, True])
def test_a_kill_once_the_snapshot_is_there(qemu: BareQemu, shm_folder: Path, asked: bool) -> None:
    """The VM runs, or has ended; it never stays stopped."""
    snap = shm_folder / "snap"
    code = _KILLED.format(asked=asked, source=f"qmp:{qemu.socket}", snap=str(snap))
    with start_program(code) as program:
        assert program.wait(60) == -signal.SIGKILL
    if asked:
        assert qemu.process.wait(20) == 0
    else:
        wait_for(lambda: qemu.status() == "running", "the VM runs again", 20)
    pagecheck.verify(snap)


@pytest.mark.parametrize("seen", [False, True])
def test_a_listener_that_is_another_process(
    qemu: BareQemu, shm_folder: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """Who made QEMU's socket for it lives on; or it cannot be seen from here."""

    def other(stack: contextlib.ExitStack, _pid: int) -> int:
        fd = os.eventfd(0)
        stack.callback(os.close, fd)
        return fd if seen else -1

    monkeypatch.setattr("pagecheck.snapshot.qemu_parts._HUNG_UP_NS", 1)
    monkeypatch.setattr("pagecheck.snapshot.qemu_parts._pidfd", other)
    report = pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, then="quit")
    assert report.ended
    assert qemu.process.wait(20) == 0


def test_an_interrupt_while_it_ends(
    qemu: BareQemu, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is done first."""
    told = []
    quit = QemuMonitor.quit

    def interrupted(monitor: QemuMonitor) -> PauseResult:
        signal.raise_signal(signal.SIGINT)
        return quit(monitor)

    monkeypatch.setattr(QemuMonitor, "quit", interrupted)
    monkeypatch.setattr("pagecheck.snapshot.save.listener", lambda *what: told.append(what))
    with pytest.raises(KeyboardInterrupt):
        pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, then="quit")
    assert qemu.process.wait(5) == 0
    pagecheck.verify(shm_folder / "snap")
    assert told == [("paused", 600.0), ("paused", None)]  # no limit of the pause counts any more


def test_a_disk_that_is_plugged_in_meanwhile(
    guest_files: GuestFiles, disk: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was asked what becomes of it."""
    drive = f"file={disk},format=qcow2,if=none,id=hd"
    with bare_qemu("-drive", drive, size="64M", machine="pc") as qemu:
        prepare = QemuParts.prepare

        def plugged(parts: QemuParts) -> None:
            qemu.qmp("device_add", driver="virtio-blk-pci", drive="hd")
            prepare(parts)

        monkeypatch.setattr(QemuParts, "prepare", plugged)
        with pytest.raises(SourceError, match="its disks changed meanwhile; nothing was saved"):
            pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1)
        assert "STOP" not in qemu.own_events()
    assert not (shm_folder / "snap").exists()


def test_a_failure_before_the_overlay_is_used(
    qemu: BareQemu, disk: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise SourceError("a made-up failure")

    monkeypatch.setattr(QemuParts, "take_state", fail)
    with pytest.raises(SourceError, match="a made-up failure"):
        pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, disks="overlay")
    assert top(qemu) == str(disk)
    assert list(shm_folder.iterdir()) == [disk]
    assert qemu.own_events() == ["STOP", "RESUME"]


def test_a_failure_after_that_tells_where_the_disk_is(
    qemu: BareQemu,
    disk: Path,
    shm_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object) -> None:
        raise OutputError("a made-up failure")

    monkeypatch.setattr(NewDirectory, "finish", fail)
    with caplog.at_level(logging.WARNING), pytest.raises(OutputError, match="a made-up failure"):
        pagecheck.save(f"qmp:{qemu.socket}", shm_folder / "snap", channels=1, disks="overlay")
    overlay = top(qemu)
    assert overlay != str(disk)
    assert f"disk hd goes on in {overlay}" in caplog.text
    assert {str(each) for each in shm_folder.iterdir()} == {str(disk), overlay}
    assert qemu.status() == "running"
