"""The state of a real QEMU, saved from outside, on one that lists the addresses of its RAM blocks
and one that does not. That guests go on with it is kept by test_restore_guest.py."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pagecheck.snapshot.stream import state_stream
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.qemu import blocks as qemu_blocks
from pagecheck.vmm.qemu.blocks import RamBlock, SavedBlock, ram_blocks
from pagecheck.vmm.qemu.list import walk_list
from pagecheck.vmm.qemu.machine import machine_of
from pagecheck.vmm.qemu.objects import find_structures
from pagecheck.vmm.qemu.state import DeviceState, SavedState
from tests.vm.bare_qemu import BareQemu, bare_qemu

MIB = 1 << 20


def load(qemu: BareQemu, state: socket.socket, stream: bytes) -> None:
    """Gives a QEMU its state through a socket, and waits until it has it."""
    with state:
        state.settimeout(20)
        state.sendall(stream)
    qemu.wait_status("paused")


def content(block: SavedBlock) -> bytes:
    whole = bytearray(block.size)
    for offset, text in block.runs:
        whole[offset : offset + len(text)] = text
    return bytes(whole)


@pytest.fixture(params=["", "10"], ids=["installed", "qemu10"])
def program(request: pytest.FixtureRequest) -> str | Path:
    """A QEMU that lists no addresses of its RAM blocks, and one that does."""
    newer = request.getfixturevalue("qemu10") if request.param else ""
    return newer or "qemu-system-x86_64"


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
    stream = state_stream(SavedState(saved.devices, tuple(changed)), machine.machine_type)
    ours, theirs = socket.socketpair()
    incoming = ("-S", "-incoming", f"fd:{theirs.fileno()}")
    with (
        bare_qemu(*args, *incoming, fds=(theirs.fileno(),), program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        theirs.close()
        load(qemu, ours, b"".join(stream))
        with DeviceState(monitor, {"pc.ram"}) as state:
            loaded = state.save()
    wanted = {each.name: content(each) for each in changed}
    assert {each.name: content(each) for each in loaded.blocks} == wanted


def test_the_list_says_what_a_search_of_the_heap_says(
    program: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both without the addresses that a newer QEMU lists."""
    seen: list[tuple[dict[str, int], dict[str, int]]] = []

    def walked(*how: Any) -> dict[str, int]:
        places = walk_list(*how)
        numbers = {each.name: each.numbers for each in how[3] if each.name}
        seen.append((places, find_structures(*how[:3], numbers)))
        return places

    def unlisted(monitor: QemuMonitor) -> list[RamBlock]:
        return [each._replace(address=0) for each in ram_blocks(monitor)]

    monkeypatch.setattr(qemu_blocks, "walk_list", walked)
    monkeypatch.setattr(qemu_blocks, "ram_blocks", unlisted)
    args = ("-device", "VGA", "-device", "virtio-net-pci")
    with (
        bare_qemu(*args, "-S", program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        DeviceState(monitor, {"pc.ram"}),
    ):
        listed = {each.name: each.address for each in ram_blocks(monitor) if each.name}
    ((walk, search),) = seen
    assert walk == search
    assert walk.keys() == listed.keys()
    if any(listed.values()):
        assert walk == listed


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


def test_the_disks_stay_the_vms(program: str | Path, shm_folder: Path) -> None:
    """A save that is part of a migration gives them away: a write would end QEMU."""
    (shm_folder / "disk").write_bytes(bytes(MIB))
    drive = f"file={shm_folder}/disk,format=raw,if=none,id=a"
    args = ("-drive", drive, "-device", "virtio-blk-pci,drive=a")
    with (
        bare_qemu(*args, program=program) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        DeviceState(monitor, {"pc.ram"}) as state,
    ):
        monitor.pause(60)
        state.save()
        qemu.human('qemu-io a "write -P 7 0 512"')
        assert (shm_folder / "disk").read_bytes()[:512] == b"\7" * 512
        monitor.resume()
