"""VMs that cannot be saved, as a real QEMU tells it."""

from __future__ import annotations

import pytest

from pagecheck.errors import SourceError
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.qemu.machine import machine_of
from pagecheck.vmm.qemu.refusals import require_savable
from tests.vm.bare_qemu import bare_qemu, memfd_backend

VIRTIO_MEM = (
    *("-object", "memory-backend-ram,id=vm,size=64M"),
    *("-device", "virtio-mem-pci,memdev=vm,id=vmem0"),
)
IVSHMEM = (
    *memfd_backend("1M", "peers", ",share=on"),
    *("-device", "ivshmem-plain,memdev=peers,master=on,id=shm0"),
)


def test_a_vm_that_can_be_saved() -> None:
    more = ("-device", "virtio-balloon,id=b", "-device", "VGA", "-netdev", "user,id=n")
    with bare_qemu(*more) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        require_savable(monitor)
        assert machine_of(monitor).discards == ["b"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("-device", "nvme,serial=x"), r"non-migratable device: .*/nvme$"),
        (VIRTIO_MEM, r"device vmem0 is virtio-mem-pci: QEMU would punch holes into .*pc-dimm"),
        (IVSHMEM, r"device shm0 is ivshmem-plain: others write to its memory"),
    ],
)
def test_devices_that_cannot_be_saved(args: tuple[str, ...], why: str) -> None:
    with (
        bare_qemu(*args, size="64M,maxmem=256M") as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
        pytest.raises(SourceError, match=rf"^qmp:.*: cannot be saved: {why}"),
    ):
        require_savable(monitor)


def test_memory_that_is_told_apart() -> None:
    args = (
        *memfd_backend("32M", "n0"),
        *memfd_backend("32M", "n1"),
        *memfd_backend("64M", "more"),
        *("-numa", "node,memdev=n0", "-numa", "node,memdev=n1"),
        *("-device", "pc-dimm,memdev=more,id=dimm0", "-smp", "2"),
    )
    size = "64M,slots=2,maxmem=256M"
    with bare_qemu(*args, size=size) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        machine = machine_of(monitor)
    assert sorted((each["block"], each["kind"], each["size"] >> 20) for each in machine.memory) == [
        ("more", "device", 64),
        ("n0", "other", 32),
        ("n1", "other", 32),
    ]
    assert all(each["share"] for each in machine.memory)
    assert machine.vcpus == 2
    assert machine.machine_type.startswith("pc-q35-")
    assert machine.command_line[-2:] == ["-smp", "2"]
