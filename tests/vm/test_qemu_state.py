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
from tests.vm.bare_qemu import bare_qemu
from tests.vm.restarting import another_qemu, copy_ram, next_check
from tools.guest import Guest

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


@pytest.mark.parametrize(
    ("kind", "backend", "more"),
    [("pc", "private", ("-device", "VGA")), ("q35", "numa", ()), ("microvm", "private", ())],
)
def test_a_guest_goes_on_in_another_qemu(
    kind: str, backend: str, more: tuple[str, ...], folder: Path
) -> None:
    extra = (*more, "-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    with Guest.boot(machine=kind, backend=backend, check_every_s=0, extra=extra) as guest:
        last = number(guest.wait_check())
        with QemuMonitor(f"{folder}/qmp") as monitor:
            machine = machine_of(monitor)
            with DeviceState(monitor, carried(machine)) as state:
                monitor.pause(60)
                saved = state.save()
                copy_ram(monitor, machine, folder)
                assert monitor.resume().stood_still
        assert number(guest.wait_check()) > last, "the first one goes on"
    assert (machine.accelerator, machine.vcpus, machine.arch) == ("tcg", 1, "x86_64")
    names = {each.name for each in saved.blocks}
    assert "pc.bios" in names
    assert not names & carried(machine)
    if more:
        (video,) = (each for each in saved.blocks if each.name.endswith("vga.vram"))
        assert content(video).count(0) < video.size, "the firmware wrote on the screen"
    fd = stream_file(saved, machine)
    with another_qemu(machine, folder) as (console, monitor, _qemu):
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


def test_nothing_stays_in_qemu() -> None:
    with bare_qemu() as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        before = len(os.listdir(f"/proc/{qemu.pid}/fd"))
        for _ in range(2):
            with DeviceState(monitor, {"pc.ram"}) as state:
                monitor.pause(60)
                first = state.save()
                assert state.save() == first, "once more, of the same moment"
                monitor.resume()
        assert monitor.execute("query-fdsets") == []
        assert len(os.listdir(f"/proc/{qemu.pid}/fd")) == before


@pytest.mark.parametrize("cut", [9, 2000, -12])
def test_a_state_that_is_cut(cut: int) -> None:
    with bare_qemu() as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        machine = machine_of(monitor)
        with DeviceState(monitor, {"pc.ram"}) as state:
            monitor.pause(60)
            fd = stream_file(state.save(), machine)
            monitor.resume()
    os.truncate(fd, cut % os.fstat(fd).st_size)
    with (
        bare_qemu("-S", "-incoming", "defer") as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        pytest.raises(PeerError, match="could not load the state"),
    ):
        load_state(monitor, fd)
    os.close(fd)


def test_a_state_of_another_machine() -> None:
    with bare_qemu(machine="pc") as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        machine = machine_of(monitor)
        with DeviceState(monitor, {"pc.ram"}) as state:
            monitor.pause(60)
            fd = stream_file(state.save(), machine)
            monitor.resume()
    with (
        bare_qemu("-S", "-incoming", "defer", machine="q35") as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        pytest.raises(PeerError, match="could not load the state"),
    ):
        load_state(monitor, fd)
    os.close(fd)
