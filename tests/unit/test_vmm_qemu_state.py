"""A state saved from a QEMU that does what it should not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm.qemu.state import DEVICES_BEGIN, DeviceState

DEVICES = DEVICES_BEGIN + b"\x04" + b"a device" + b"\x7e\0\0\0\x09" + b"\0"
BLOCKS = f"Name\n  mem0  4 KiB  0x{0:016x} 0x{4096:016x} 0x{4096:016x}\r\n"


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


class Qemu:
    """In place of a monitor: a QEMU whose one RAM block is in a file."""

    def __init__(self, devices: bytes = DEVICES) -> None:
        self.name = "qmp:x"
        self.peer_pid = 0
        self.devices = devices
        self.set: Any = {"fdset-id": 3, "fd": 9}
        self.refused: set[str] = set()
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.file = -1

    def execute(self, command: str, fds: tuple[int, ...] = (), **arguments: Any) -> Any:
        self.commands.append((command, arguments))
        if command in self.refused:
            raise PeerError(f"refused {command}")
        return getattr(self, command.replace("-", "_"))(fds, **arguments)

    def human_monitor_command(self, _fds: object, **_line: str) -> str:
        return BLOCKS

    def add_fd(self, fds: tuple[int, ...]) -> Any:
        (fd,) = fds
        self.file = os.dup(fd)
        return self.set

    def xen_save_devices_state(self, _fds: object, filename: str, live: bool) -> Any:
        assert (filename, live) == ("/dev/fdset/3", False)
        os.write(self.file, self.devices)
        return {}

    def remove_fd(self, _fds: object, **_which: int) -> Any:
        return {}

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    with contextlib.closing(Qemu()) as made:
        yield made


def device_state(qemu: Qemu) -> DeviceState:
    return DeviceState(qemu, {"mem0"})  # type: ignore[arg-type]


def test_what_qemu_wrote_is_given_back_each_time(qemu: Qemu) -> None:
    with device_state(qemu) as state:
        assert state.save() == (DEVICES, ())
        qemu.devices = DEVICES.replace(b"a device", b"a dev")
        assert state.save().devices == qemu.devices
    assert qemu.commands[-1] == ("remove-fd", {"fdset-id": 3})


@pytest.mark.parametrize(
    "devices",
    [
        b"",
        DEVICES_BEGIN,
        DEVICES[:-1],
        DEVICES[:-3] + b"\0",
        DEVICES.replace(b"\x03\x04", b"\x03\x07"),
        DEVICES.replace(b"QEVM", b"XEVM"),
        DEVICES.replace(b"\0\0\0\x03", b"\0\0\0\x04"),
    ],
)
def test_devices_that_are_not_whole(qemu: Qemu, devices: bytes) -> None:
    qemu.devices = devices
    with (
        device_state(qemu) as state,
        pytest.raises(PeerError, match=rf"devices \({len(devices)} bytes\) is not whole"),
    ):
        state.save()


@pytest.mark.parametrize("answer", [{}, [], None, {"fdset-id": "3"}, {"fdset-id": -1}])
def test_a_descriptor_that_is_not_taken(qemu: Qemu, answer: Any) -> None:
    qemu.set = answer
    with pytest.raises(PeerError, match="the answer to add-fd"):
        device_state(qemu)


def test_what_is_refused_can_be_tried_again(qemu: Qemu) -> None:
    with device_state(qemu) as state:
        qemu.refused = {"xen-save-devices-state"}
        with pytest.raises(PeerError, match="refused xen-save"):
            state.save()
        qemu.refused = {"remove-fd"}
        assert state.save().devices == DEVICES
