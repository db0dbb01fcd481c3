"""VMs of QEMU, saved: what is in the directory is what was in the VM, which runs again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import OutputError, PagecheckError, SourceError, UsageError
from pagecheck.snapshot import manifest
from pagecheck.snapshot.copying import Copying, Watch
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.qemu_parts import QemuParts
from pagecheck.snapshot.stopped import Stopped
from tests.support import command
from tests.support.file_systems import mounted
from tests.support.qmp import in_watchdog
from tests.vm.bare_qemu import BareQemu, bare_qemu
from tests.vm.private_guests import private_guest, source
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.timeout(120)]
MIB = 1 << 20
NODES = (("node0", 0, 128 * MIB), ("node1", 128 * MIB, 128 * MIB))
ROMS = (0xA0000, 0x100000)  # what the guest sees there is not its RAM


@pytest.fixture(scope="module")
def guest(guest_files: GuestFiles) -> Iterator[Guest]:
    """Linux on q35 with two NUMA nodes, one private and one shared; it runs."""
    with private_guest("q35") as booted:
        yield booted


def seen_by(guest: Guest, folder: Path) -> bytes:
    """Physical memory as QEMU itself reads it, what is not RAM zeroed."""
    path = folder / "pmem"
    guest.qmp("pmemsave", val=0, size=256 * MIB, filename=str(path), within_s=60)
    data = bytearray(path.read_bytes())
    path.unlink()
    data[slice(*ROMS)] = bytes(ROMS[1] - ROMS[0])
    return bytes(data)


def saved_in(directory: Path) -> bytes:
    """The same of a snapshot."""
    snapshot = manifest.read(directory)
    assert [block.name for block in snapshot.blocks] == ["node0", "node1"]
    data = bytearray(b"".join((directory / block.file).read_bytes() for block in snapshot.blocks))
    data[slice(*ROMS)] = bytes(ROMS[1] - ROMS[0])
    return bytes(data)


def require_none(folder: Path) -> None:
    assert [each.name for each in folder.iterdir()] == []


@pytest.mark.long
def test_one_that_is_stopped(guest: Guest, shm_folder: Path) -> None:
    guest.pause()
    try:
        report = pagecheck.save(source(guest), shm_folder / "snap", channels=2)
        assert guest.qmp("query-status")["status"] == "paused"
        assert saved_in(shm_folder / "snap") == seen_by(guest, shm_folder)
    finally:
        guest.resume()
    assert report.pause is not None
    assert (report.pause.stopped_by_us, report.pause.seconds) == (False, 0)
    stored = sum((shm_folder / "snap" / b.file).stat().st_blocks * 512 for b in report.blocks)
    assert stored <= 1.01 * report.total.normal * 4096


@pytest.mark.long(but="False-True")
@pytest.mark.parametrize(
    ("live", "room", "passes"), [(False, True, 1), (False, False, 0), (True, False, 2)]
)
def test_one_that_runs(
    guest: Guest,
    shm_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    live: bool,
    room: bool,
    passes: int,
) -> None:
    """Its RAM is copied before the pause too, where it is asked for or memory has room for it."""
    seen, ahead = [], []
    copy_ahead = Copying.copy_ahead

    def counted(copying: Copying, watch: Watch) -> None:
        copy_ahead(copying, watch)
        ahead.append(guest.qmp("query-status")["status"])

    monkeypatch.setattr(Copying, "copy_ahead", counted)
    monkeypatch.setattr("pagecheck.snapshot.copying.fits_in_memory", lambda _sizes: room)
    monkeypatch.setattr(QemuParts, "take_disks", lambda _: seen.append(seen_by(guest, shm_folder)))
    report = pagecheck.save(source(guest), shm_folder / "snap", channels=2, live=live, max_pause=60)
    assert guest.qmp("query-status")["status"] == "running"
    assert [saved_in(shm_folder / "snap")] == seen
    assert ahead == ["running"] * passes
    assert report.exact
    assert report.pause is not None
    assert report.pause[1:] == (True, False, True, False)
    assert (report.pause_without_live is not None) is live
    assert guest.wait_check().endswith("OK")
    snapshot = manifest.read(shm_folder / "snap")
    assert snapshot.machine is not None
    assert snapshot.machine.machine_type is not None
    assert snapshot.machine.machine_type.startswith("pc-q35-")
    assert [each.backend for each in snapshot.blocks] == ["private", "shared"]
    assert [each.regions[0].gpa for each in snapshot.blocks] == [0, 128 * MIB]
    assert snapshot.state is not None
    assert (shm_folder / "snap" / "state").stat().st_size == snapshot.state.size > 10_000
    assert snapshot.pause is not None
    assert snapshot.pause["stood_still"] is True


def test_it_ends_once_it_is_safe(qemu: BareQemu, tmp_path: Path) -> None:
    done = command.pagecheck(
        *("save", "--json", "--then", "quit", "--channels", 1),
        *(f"qmp:{qemu.socket}", tmp_path / "snap"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ended"] is True
    assert report["pause"]["left_stopped"] is True
    assert qemu.process.wait(0) == 0
    assert manifest.read(tmp_path / "snap").exact


def test_of_qemu_10(qemu10: Path, tmp_path: Path) -> None:
    with bare_qemu(size="64M", program=qemu10) as qemu:
        qemu.own_events()
        report = pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "snap", channels=1, live=True)
        assert qemu.own_events() == ["STOP", "RESUME"]
    assert report.state_bytes > 10_000
    pagecheck.verify(tmp_path / "snap")
    snapshot = manifest.read(tmp_path / "snap")
    assert snapshot.machine is not None
    assert str(snapshot.machine.vmm_version).startswith("10.")


def test_what_is_refused_before_it_is_stopped(qemu: BareQemu, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    name = f"qmp:{qemu.socket}"
    with mounted(tmp_path, "tmpfs", "2M") as small:
        with pytest.raises(OutputError, match=r"takes about .* MiB"):
            pagecheck.save(name, small / "snap", channels=1)
        require_none(small)
    for directory, why in (("there", "exists"), ("none/snap", "no folder"), ("", "not a name")):
        with pytest.raises(OutputError, match=why):
            pagecheck.save(name, tmp_path / directory if directory else "", channels=1)
    with pytest.raises(UsageError, match="max pause"):
        pagecheck.save(name, tmp_path / "snap", max_pause=0)
    assert qemu.own_events() == []


@pytest.mark.parametrize(("ahead", "events"), [(True, []), (False, ["STOP", "RESUME"])])
def test_a_disk_that_fills_up(
    qemu: BareQemu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
    events: list[str],
) -> None:
    """Before the pause, where RAM is copied then, or in it."""
    monkeypatch.setattr("pagecheck.snapshot.copying.fits_in_memory", lambda _sizes: ahead)
    monkeypatch.setattr("pagecheck.snapshot.saving.require_room", lambda *_: None)
    with mounted(tmp_path, "tmpfs", "128K") as small:
        with pytest.raises(OutputError, match="No space left"):
            pagecheck.save(f"qmp:{qemu.socket}", small / "snap", channels=1)
        require_none(small)
    assert qemu.own_events() == events


def test_small_ram_blocks_need_room_too(guest_files: GuestFiles, tmp_path: Path) -> None:
    """The video memory is larger than all of the file system."""
    with (
        bare_qemu("-device", "VGA,vgamem_mb=256", size="64M") as qemu,
        mounted(tmp_path, "tmpfs", "128M") as small,
    ):
        qemu.own_events()
        with pytest.raises(
            OutputError, match=r"takes about (2[7-9]|3\d)\d MiB, .* has 12\d MiB left"
        ):
            pagecheck.save(f"qmp:{qemu.socket}", small / "snap", channels=1)
        assert qemu.own_events() == []


def test_a_pause_that_would_last_too_long(qemu: BareQemu, tmp_path: Path) -> None:
    given = ["--max-pause", "0.2", f"qmp:{qemu.socket}", tmp_path / "snap"]
    done = command.pagecheck("save", "--channels", "1", "--max-rate", "64K", *given)
    command.assert_fails(done, 2, "paused for 0.2 s", "runs on", "nothing was saved")
    require_none(tmp_path)
    assert qemu.own_events() == ["STOP", "RESUME"]


def test_one_that_others_continue(
    qemu: BareQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QemuParts, "take_disks", lambda _: qemu.qmp("cont"))
    with pytest.raises(SourceError, match="continued or reset by somebody else"):
        pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "snap", channels=1)
    require_none(tmp_path)
    assert qemu.status() == "running"


SLOW = ["save", "--quiet", "--channels", "1", "--max-rate", "64K", "--max-pause", "100"]


@pytest.mark.long(but="9")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_in_the_pause(qemu: BareQemu, tmp_path: Path, number: int) -> None:
    given = [f"qmp:{qemu.socket}", tmp_path / "snap"]
    with command.start(*SLOW, *given, stderr=subprocess.DEVNULL) as running:
        qemu.wait_event("STOP")
        os.kill(running.pid, number)
        qemu.wait_event("RESUME")
        assert running.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
    assert qemu.status() == "running"
    assert not (tmp_path / "snap").exists()
    if number != signal.SIGKILL:
        require_none(tmp_path)
        return
    assert len(list(tmp_path.iterdir())) == 1
    pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "next", channels=1)  # removes what is left
    assert [each.name for each in tmp_path.iterdir()] == ["next"]


def test_the_watchdog_is_killed_in_the_pause(
    qemu: BareQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(parts: QemuParts) -> None:
        assert parts._qemu._process is not None
        os.kill(parts._qemu._process.pid, signal.SIGKILL)

    monkeypatch.setattr(QemuParts, "take_disks", kill)
    with pytest.raises(PagecheckError, match=r"killed by signal 9.*the VM was continued"):
        pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "snap", channels=1)
    assert qemu.status() == "running"
    require_none(tmp_path)


@pytest.mark.parametrize("command_lost", ["xen-save-devices-state", "query-memory-devices"])
def test_the_connection_is_lost(
    qemu: BareQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_lost: str
) -> None:
    """In the pause nothing is saved; after it, once what QEMU says is missed, neither."""
    lose = f"""
from pagecheck.vmm.hold import monitor
execute, stopped = monitor.Monitor.execute, []
async def lose(self, command, *more):
    if stopped and command == {command_lost!r}:
        await self.close()
    if command == "stop":
        stopped.append(command)
    return await execute(self, command, *more)
monitor.Monitor.execute = lose
"""
    in_watchdog(monkeypatch, f"exec({lose!r}, {{}})")
    with pytest.raises(PagecheckError, match="is not connected"):
        pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "snap", channels=1)
    assert qemu.own_events() == ["STOP", "RESUME"]
    assert qemu.status() == "running"
    require_none(tmp_path)


def test_a_signal_right_at_the_end_of_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM runs before the directory is touched, whose file system may stall."""
    was: list[str] = []
    leave = NewDirectory.__exit__

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with bare_qemu() as qemu:

        def watched(made: NewDirectory, *error: Any) -> None:
            was.append(qemu.status())
            leave(made, *error)

        monkeypatch.setattr(Stopped, "__exit__", interrupted)
        monkeypatch.setattr(Stopped, "end", interrupted)
        monkeypatch.setattr(NewDirectory, "__exit__", watched)
        with pytest.raises(KeyboardInterrupt):
            pagecheck.save(f"qmp:{qemu.socket}", tmp_path / "snap", channels=1)
    assert was == ["running"]
    require_none(tmp_path)
