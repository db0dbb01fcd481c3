"""Real guests whose state is saved from outside; another QEMU loads it and the guest goes on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import PeerError, UsageError
from pagecheck.snapshot.stream import state_stream
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.qemu_blocks import SavedBlock
from pagecheck.vmm.qemu_loading import load_state
from pagecheck.vmm.qemu_machine import Machine, machine_of
from pagecheck.vmm.qemu_state import DeviceState, SavedState
from tests.support.guests import booted
from tests.vm.bare_qemu import bare_qemu
from tests.vm.restarting import another_qemu, copy_ram, next_check

MIB = 1 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as name:
        yield Path(name)


def carried(machine: Machine) -> set[str]:
    return {each["block"] for each in machine.memory}


def stream_file(saved: SavedState, machine: Machine) -> int:
    fd = os.memfd_create("state")
    for piece in state_stream(saved, machine.machine_type, machine.page_bits):
        os.write(fd, piece)
    return fd


def content(block: SavedBlock) -> bytes:
    whole = bytearray(block.size)
    for offset, text in block.runs:
        whole[offset : offset + len(text)] = text
    return bytes(whole)


def number(line: str) -> int:
    assert line.endswith(" OK"), line
    return int(line.split()[-2])


@pytest.fixture(params=["", "10"], ids=["installed", "qemu10"])
def program(request: pytest.FixtureRequest) -> str | Path:
    """A QEMU that lists no addresses of its RAM blocks, and one that does."""
    newer = request.getfixturevalue("qemu10") if request.param else ""
    return newer or "qemu-system-x86_64"


@pytest.mark.parametrize(
    ("kind", "backend", "qemu", "more"),
    [
        ("pc", "private", "", ("-device", "VGA")),
        ("q35", "numa", "", ()),
        ("microvm", "private", "10", ()),
        ("virt", "private", "10", ()),
    ],
)
def test_a_guest_goes_on_in_another_qemu(
    kind: str, backend: str, qemu: str, more: tuple[str, ...], folder: Path
) -> None:
    extra = ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    asked = {"machine": kind, "backend": backend, "qemu": qemu, "extra": (*more, *extra)}
    with booted(**asked) as guest:
        last = number(guest.wait_check())
        with QemuMonitor(f"{folder}/qmp") as monitor:
            machine = machine_of(monitor)
            with DeviceState(monitor, carried(machine)) as state:
                monitor.pause(60)
                saved = state.save()
                copy_ram(monitor, machine, folder)
                assert monitor.resume().stood_still
        assert number(guest.wait_check()) > last, "the first one goes on"
    arch = "aarch64" if kind == "virt" else "x86_64"
    assert (machine.accelerator, machine.vcpus, machine.arch) == ("tcg", 1, arch)
    names = {each.name for each in saved.blocks}
    assert ("virt.flash0" if kind == "virt" else "pc.bios") in names
    assert not names & carried(machine)
    if more:
        (video,) = (each for each in saved.blocks if each.name.endswith("vga.vram"))
        assert content(video).count(0) < video.size, "the firmware wrote on the screen"
    fd = stream_file(saved, machine)
    command = [word for word in guest.command if word not in extra]
    with another_qemu(command, machine, folder) as (console, monitor):
        load_state(monitor, fd)
        with DeviceState(monitor, carried(machine)) as state:
            loaded = state.save().blocks
        assert [(each.name, content(each)) for each in loaded] == [
            (each.name, content(each)) for each in saved.blocks
        ]
        monitor.execute("cont")
        assert number(next_check(console)) > last
        with pytest.raises(UsageError, match="status is running; start it with -S -incoming"):
            load_state(monitor, fd)
    os.close(fd)


def test_small_blocks_are_equal_in_another_qemu(program: str | Path) -> None:
    args = ("-device", "VGA", "-device", "virtio-net-pci")
    with (
        bare_qemu(*args, "-S", program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        DeviceState(monitor, {"pc.ram"}) as state,
    ):
        machine = machine_of(monitor)
        saved = state.save()
        again = state.save()
        assert again.blocks == saved.blocks
        assert len(again.devices) == len(saved.devices), "the clock moves on"
    (video,) = (each for each in saved.blocks if each.name.endswith("vga.vram"))
    mark = bytes(range(256)) * 16
    changed = [each for each in saved.blocks if each is not video]
    changed.append(video._replace(runs=((8192, mark),)))
    fd = stream_file(SavedState(saved.devices, tuple(changed)), machine)
    with (
        bare_qemu(*args, "-S", "-incoming", "defer", program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        load_state(monitor, fd)
        with DeviceState(monitor, {"pc.ram"}) as state:
            loaded = state.save()
        assert qemu.status() == "paused"
    os.close(fd)
    wanted = {each.name: content(each) for each in changed}
    assert {each.name: content(each) for each in loaded.blocks} == wanted


def test_nothing_stays_in_qemu(program: str | Path) -> None:
    with bare_qemu(program=program) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        before = len(os.listdir(f"/proc/{qemu.pid}/fd"))
        for _ in range(2):
            with DeviceState(monitor, {"pc.ram"}) as state:
                monitor.pause(60)
                state.save()
                monitor.resume()
        assert monitor.execute("query-fdsets") == []
        assert len(os.listdir(f"/proc/{qemu.pid}/fd")) == before


def test_the_disks_stay_the_vms(program: str | Path, folder: Path) -> None:
    """A save that is part of a migration gives them away: a write would end QEMU."""
    (folder / "disk").write_bytes(bytes(MIB))
    drive = f"file={folder}/disk,format=raw,if=none,id=a"
    args = ("-drive", drive, "-device", "virtio-blk-pci,drive=a")
    with (
        bare_qemu(*args, program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        DeviceState(monitor, {"pc.ram"}) as state,
    ):
        monitor.pause(60)
        state.save()
        qemu.human('qemu-io a "write -P 7 0 512"')
        assert (folder / "disk").read_bytes()[:512] == b"\7" * 512
        monitor.resume()


@pytest.mark.parametrize("damage", ["in the header", "in the middle", "at the end", "machine"])
def test_a_state_that_cannot_be_loaded(program: str | Path, damage: str) -> None:
    with (
        bare_qemu("-S", program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        DeviceState(monitor, {"pc.ram"}) as state,
    ):
        machine = machine_of(monitor)
        fd = stream_file(state.save(), machine)
    size = os.fstat(fd).st_size
    cut = {"in the header": 9, "in the middle": size // 2, "at the end": size - 12}
    os.truncate(fd, cut.get(damage, size))
    other = "pc" if damage == "machine" else "q35"
    with (
        bare_qemu("-S", "-incoming", "defer", machine=other, program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        pytest.raises(PeerError, match="could not load the state") as caught,
    ):
        load_state(monitor, fd)
    os.close(fd)
    ended = int(machine.vmm_version.partition(".")[0]) < 9
    assert ("what it printed last says why" in str(caught.value)) == ended
