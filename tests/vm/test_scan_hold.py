"""Scans that leave a VM stopped, and scans of a VM whose RAM changes while it is held."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck import Client
from pagecheck.coordinator import Block, Coordinator
from pagecheck.coordinator.scan import ScanResult
from pagecheck.errors import PagecheckError, SourceError
from tests.support import command
from tests.support.service import services
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.timeout(120)]

SCAN = ["scan", "--channels", "1", "--pause"]
SLOW = ["--max-pause", "600", "--max-rate", "64K", "--batch-pages", "16"]
MIB = 1 << 20


@pytest.fixture
def qemu(guest_files: GuestFiles) -> Iterator[BareQemu]:
    """Runs its firmware."""
    size = "64M,slots=2,maxmem=1G"
    with bare_qemu(*memfd_backend("64M"), machine="q35,memory-backend=mem0", size=size) as running:
        running.own_events()
        yield running


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What is put in here is done once, when the next scan has stopped the VM."""
    todo: list[Callable[[], None]] = []
    scan_block = Coordinator.scan_block

    def begin(self: Coordinator, block: Block, **options: Any) -> ScanResult:
        todo.pop()()
        return scan_block(self, block, **options)

    monkeypatch.setattr(Coordinator, "scan_block", begin)
    return todo


def test_it_is_left_stopped(qemu: BareQemu) -> None:
    report = pagecheck.scan(f"qmp:{qemu.socket}", pause=True, leave_stopped=True, channels=1)
    assert qemu.status() == "paused"
    assert report.answer == "paused"
    assert report.pause is not None
    assert report.pause[1:] == (True, False, True, True)
    assert report.to_json()["pause"]["left_stopped"] is True
    again = pagecheck.scan(f"qmp:{qemu.socket}", pause=True, leave_stopped=True, channels=1)
    assert again.pause is not None
    assert again.pause[1:] == (True, False, False, False)
    assert qemu.own_events() == ["STOP"]


def test_the_command(qemu: BareQemu) -> None:
    done = command.pagecheck(*SCAN, "--leave-stopped", f"qmp:{qemu.socket}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the VM is left stopped" in done.stdout
    assert qemu.status() == "paused"


def test_a_scan_that_fails_leaves_nothing_stopped(
    qemu: BareQemu, held: list[Callable[[], None]]
) -> None:
    def fail() -> None:
        assert qemu.status() == "paused"
        raise KeyboardInterrupt

    held.append(fail)
    with pytest.raises(KeyboardInterrupt):
        pagecheck.scan(f"qmp:{qemu.socket}", pause=True, leave_stopped=True, channels=1)
    assert qemu.status() == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_scan_that_is_ended_leaves_nothing_stopped(qemu: BareQemu, number: int) -> None:
    given = ["--leave-stopped", "--quiet", *SLOW, f"qmp:{qemu.socket}"]
    with command.start(*SCAN, *given, stderr=subprocess.DEVNULL) as running:
        qemu.wait_event("STOP")
        os.kill(running.pid, number)
        qemu.wait_event("RESUME")
    assert qemu.status() == "running"


def test_one_that_lasts_too_long_is_an_error(qemu: BareQemu) -> None:
    given = ["--leave-stopped", "--max-pause", "0.1", *SLOW[2:4], f"qmp:{qemu.socket}"]
    done = command.pagecheck(*SCAN, *given, "--deadline", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"pagecheck: .* paused for 0\.1 s.*; it is not left stopped .*\n", done.stderr
    )
    assert qemu.status() == "running"


def test_by_a_service(qemu: BareQemu, tmp_path: Path) -> None:
    source = f"qmp:{qemu.socket}"
    with services(tmp_path) as start:
        path = start("--channels", 1).path
        with Client(path) as client:
            report = client.scan(source, pause=True, leave_stopped=True)
            assert report.pause is not None
            assert report.pause.left_stopped
            assert qemu.status() == "paused"
        with Client(path) as client:
            client.greeting["capabilities"].remove("leave-stopped")
            with pytest.raises(PagecheckError, match="too old for leave-stopped"):
                client.scan(source, pause=True, leave_stopped=True)
    assert qemu.status() == "paused"


def test_a_dimm_that_is_plugged_while_it_is_held(
    qemu: BareQemu, held: list[Callable[[], None]]
) -> None:
    size = 128 * MIB

    def plug() -> None:
        backend = {"qom-type": "memory-backend-memfd", "id": "mem1", "size": size}
        qemu.qmp("object-add", **backend)
        qemu.qmp("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")

    held.append(plug)
    report = pagecheck.scan(f"qmp:{qemu.socket}", pause=True, channels=1)
    assert [block.block.name for block in report.blocks] == ["mem0"]
    assert report.answer == "paused"
    (note,) = [each for each in report.notes if "dimm1" in each]
    assert f"was plugged ({size} bytes) meanwhile: the answer is for the RAM that was" in note


def test_a_migration_that_ends_while_it_is_held(
    qemu: BareQemu, held: list[Callable[[], None]]
) -> None:
    uri = f"unix:{qemu.socket.with_name('migration')}"
    words = (*memfd_backend("64M"), "-incoming", uri)
    machine, size = "q35,memory-backend=mem0", "64M,slots=2,maxmem=1G"

    def migrate() -> None:
        qemu.qmp("migrate", uri=uri)
        qemu.wait_status("postmigrate")

    with bare_qemu(*words, machine=machine, size=size) as target:
        held.append(migrate)
        with pytest.raises(SourceError, match="run cont there"):
            pagecheck.scan(f"qmp:{qemu.socket}", pause=True, channels=1)
        target.wait_status("paused")
