"""The guest tool's word that a guest goes on, and that its disk belongs to its memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tools.guest import DeadlinePassed, Guest, GuestError, RunningGuest
from tools.guest.fetch import GuestFiles
from tools.guest.qmp import Qmp

pytestmark = pytest.mark.timeout(180)

SECONDS = 60.0


@contextlib.contextmanager
def continued(command: list[str], stream: Path, log: Path) -> Iterator[RunningGuest]:
    """Another QEMU that takes a guest over from a migration stream."""
    ours, theirs = socket.socketpair()
    own = ["-chardev", f"socket,id=own,fd={theirs.fileno()}", "-mon", "own,mode=control"]
    own += ["-serial", f"file:{log}", "-incoming", f"exec:cat {stream}"]
    qemu = subprocess.Popen([*command, *own], pass_fds=(theirs.fileno(),))
    theirs.close()
    try:
        qmp = Qmp(ours, time.monotonic() + SECONDS)
        assert qmp.execute("query-status", {}, time.monotonic() + SECONDS)["status"] != "running"
        wait_for(lambda: _arrived(qmp), "the guest arrived", SECONDS)
        qmp.execute("cont", {}, time.monotonic() + SECONDS)
        with RunningGuest.on_file(qemu.pid, log) as guest:
            yield guest
    finally:
        ours.close()
        qemu.kill()
        qemu.wait()


def _arrived(qmp: Qmp) -> bool:
    return bool(qmp.execute("query-status", {}, time.monotonic() + SECONDS)["status"] == "paused")


def _sent(guest: Guest) -> bool:
    return bool(guest.qmp("query-migrate")["status"] == "completed")


@pytest.mark.long
def test_a_guest_goes_on_with_its_disk_and_not_with_a_later_one(
    guest_files: GuestFiles, tmp_path: Path
) -> None:
    disk, then, stream = tmp_path / "disk.raw", tmp_path / "then.raw", tmp_path / "stream"
    with Guest.boot(
        backend="private", random_mb=2, zeros_mb=1, check_every_s=0, disk=disk
    ) as source:
        assert source.wait_check().endswith("OK")
        source.pause()
        last = source.count()
        source.qmp("migrate", uri=f"exec:cat >{stream}")
        wait_for(lambda: _sent(source), "the guest was sent", SECONDS)
        shutil.copyfile(disk, then)
        source.resume()
        assert source.wait_check().endswith("OK")

    command = [word.replace(str(disk), str(then)) for word in source.command]
    with continued(command, stream, tmp_path / "log") as guest:
        assert guest.goes_on(last) > last
        assert guest.count() > last
    with (
        continued(source.command, stream, tmp_path / "later-log") as guest,
        pytest.raises(GuestError, match="memory or its disk changed"),
    ):
        guest.goes_on(last)


@pytest.mark.long
def test_a_load_goes_on_and_is_checked(qemu10: Path) -> None:
    with Guest.boot(
        machine="microvm",
        backend="private",
        random_mb=4,
        zeros_mb=1,
        check_every_s=1,
        write_mib_s=20,
        qemu="10",
    ) as guest:
        guest.wait_line("CHECK 1 OK", SECONDS)
        first = int(guest.wait_line("WROTE", SECONDS).split()[1])
        guest.wait_line("CHECK 2 OK", SECONDS)
        assert int(guest.wait_line("WROTE", SECONDS).split()[1]) > first
        guest.wait_line("CHECK 3 OK", SECONDS)


def said(log: Path, *lines: str, end: str = "\r\n") -> None:
    with log.open("a") as file:
        file.writelines(line + end for line in lines)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def test_the_count_is_of_whole_lines(log: Path) -> None:
    with RunningGuest.on_file(os.getpid(), log) as guest:
        assert guest.count() == 0
        said(log, "1 OK", "CHECK 12 OK")
        said(log, "CHECK 13", end="")
        assert guest.count() == 12
        said(log, " OK")
        assert guest.count() == 13


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["GUEST FILLED", "CHECK 1 OK", "CHECK 2 OK"], "was booted"),
        (["CHECK 7 OK", "CHECK 8 OK"], r"counts \[7, 8\] after 7"),
        (["CHECK 8 OK", "CHECK 10 OK"], r"counts \[8, 10\] after 7"),
        (["CHECK 8 OK", "CHECK 9 BAD"], "changed"),
    ],
)
def test_another_guest_does_not_go_on(log: Path, lines: list[str], wrong: str) -> None:
    said(log, *lines)
    with (
        RunningGuest.on_file(os.getpid(), log) as guest,
        pytest.raises(GuestError, match=wrong),
    ):
        guest.goes_on(7)


def test_the_end_of_a_foreign_qemu_is_an_error(log: Path) -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with RunningGuest.on_file(process.pid, log) as guest:
        with pytest.raises(DeadlinePassed):
            guest.wait_check(0.05)
        process.communicate()
        with pytest.raises(GuestError, match="ended with"):
            guest.wait_check()


def test_a_console_in_a_pipe_closes(log: Path) -> None:
    with subprocess.Popen(["echo", "CHECK 4 OK"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with RunningGuest.on_pipe(process.pid, process.stdout.fileno()) as guest:
            assert guest.wait_line("CHECK", SECONDS) == "CHECK 4 OK"
            with pytest.raises(GuestError, match="its console closed"):
                guest.wait_check()
