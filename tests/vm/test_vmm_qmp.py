"""Guest RAM found through QMP: every shared backend, and where it lies in guest memory."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError
from pagecheck.model import Region
from pagecheck.shm.ram import RamSource
from pagecheck.vmm import GuestRam, Vm, open_vm
from tests.support.bitmaps import bits
from tests.support.oracle import zero_pages
from tests.vm.bare_qemu import BareQemu, bare_qemu, file_backend, memfd_backend, same_file
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = pytest.mark.usefixtures("guest_files", "clean")

MIB, GIB = 1 << 20, 1 << 30
TAG = 8


def opened(qemu: BareQemu) -> Vm:
    return open_vm(f"qmp:{qemu.socket}")


def by_name(vm: Vm) -> dict[str, GuestRam]:
    return {ram.source.name: ram for ram in vm.rams}


def guest_bytes(qemu: BareQemu, gpa: int, folder: Path) -> bytes:
    """What QEMU itself says is at an address of guest memory."""
    path = folder / "saved"
    qemu.qmp("pmemsave", val=gpa, size=TAG, filename=str(path))
    return path.read_bytes()


def check_regions(qemu: BareQemu, ram: GuestRam, folder: Path) -> None:
    """Writes a tag at both ends of every region and asks QEMU for it by its address."""
    is_file = isinstance(ram.source, RamSource)
    path = f"/proc/self/fd/{ram.source.fd}" if is_file else f"/proc/{qemu.pid}/mem"
    fd = os.open(path, os.O_RDWR)
    try:
        for region in ram.regions:
            for at in (0, region.memory_size - TAG):
                tag = os.urandom(TAG)
                start = region.mmap_offset if is_file else region.userspace_addr
                os.pwrite(fd, tag, start + at)
                assert guest_bytes(qemu, region.guest_phys_addr + at, folder) == tag
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def microvm(guest_files: GuestFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A real guest on microvm with a memfd; its second monitor is `path` + "/qmp"."""
    path = tmp_path_factory.mktemp("microvm") / "qmp"
    extra = ("-qmp", f"unix:{path},server=on,wait=off")
    with Guest.boot(machine="microvm", backend="memfd", extra=extra) as guest:
        guest.qmp_path = path  # type: ignore[attr-defined]
        yield guest


def test_a_real_guest_is_paused_and_scanned_exactly(microvm: Guest) -> None:
    source = f"qmp:{microvm.qmp_path}"  # type: ignore[attr-defined]
    with open_vm(source) as vm:
        (ram,) = vm.rams
        assert (ram.source.name, ram.start, ram.size) == ("ram", 0, 256 * MIB)
        assert same_file(ram.source.fd, microvm.ram_path)
        assert vm.can_pause
        assert vm.is_stopped() is False
        vm.pause(60)
        assert vm.is_stopped() is True
        before = zero_pages(ram.source.fd, 4096)
        report = pagecheck.scan(f"fd:{ram.source.fd}")
        assert vm.resume()[1:] == (True, False, True, False)
        assert report.total.zero == int(before.sum())
        assert vm.is_stopped() is False
    assert "OK" in microvm.wait_check()


@pytest.mark.parametrize(
    ("machine", "size", "regions"),
    [
        (
            "q35",
            "3G",
            [(0, 0xC0000, 0), (1 * MIB, 2047 * MIB, 1 * MIB), (4 * GIB, 1 * GIB, 2 * GIB)],
        ),
        (
            "pc",
            "4G",
            [(0, 0xC0000, 0), (1 * MIB, 3071 * MIB, 1 * MIB), (4 * GIB, 1 * GIB, 3 * GIB)],
        ),
        (
            "microvm,acpi=off",
            "4G",
            [(0, 0xF0000, 0), (1 * MIB, 3071 * MIB, 1 * MIB), (4 * GIB, 1 * GIB, 3 * GIB)],
        ),
        ("q35", "64M", [(0, 0xC0000, 0), (1 * MIB, 63 * MIB, 1 * MIB)]),
    ],
)
def test_ram_in_pieces(
    machine: str, size: str, regions: list[tuple[int, int, int]], shm_folder: Path, tmp_path: Path
) -> None:
    backend = file_backend(size, shm_folder / "ram")
    machine = f"{machine},memory-backend=mem0"
    with bare_qemu("-S", *backend, machine=machine, size=size) as qemu, opened(qemu) as vm:
        (ram,) = vm.rams
        found = [(each.guest_phys_addr, each.memory_size, each.mmap_offset) for each in ram.regions]
        assert found == regions
        assert same_file(ram.source.fd, shm_folder / "ram")
        check_regions(qemu, ram, tmp_path)


def test_the_address_in_qemu_is_its_own(shm_folder: Path) -> None:
    backend = file_backend("64M", shm_folder / "ram")
    with bare_qemu("-S", *backend, machine="q35,memory-backend=mem0") as qemu, opened(qemu) as vm:
        region = vm.rams[0].regions[1]
        with (shm_folder / "ram").open("r+b") as file:
            os.pwrite(file.fileno(), b"pagecheck", 5 * MIB)
        at = region.userspace_addr + 5 * MIB - region.mmap_offset
        with open(f"/proc/{qemu.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(at)
            assert memory.read(9) == b"pagecheck"


def test_two_memfds_of_one_size_are_told_apart(tmp_path: Path) -> None:
    numa = ("-numa", "node,memdev=mem0", "-numa", "node,memdev=mem1", "-smp", "2")
    backends = (*memfd_backend("64M"), *memfd_backend("64M", "mem1"))
    with bare_qemu("-S", *backends, *numa, size="128M") as qemu, opened(qemu) as vm:
        rams = by_name(vm)
        assert sorted(rams) == ["mem0", "mem1"]
        assert rams["mem1"].regions[0][:2] == (64 * MIB, 64 * MIB)
        for ram in vm.rams:
            check_regions(qemu, ram, tmp_path)


def test_a_memfd_of_the_launcher() -> None:
    memfd = os.memfd_create("launched")
    try:
        os.ftruncate(memfd, 64 * MIB)
        backend = file_backend("64M", f"/dev/fd/{memfd}")
        machine = "microvm,acpi=off,memory-backend=mem0"
        with (
            bare_qemu("-S", *backend, machine=machine, fds=[memfd]) as qemu,
            opened(qemu) as vm,
        ):
            (ram,) = vm.rams
            assert os.path.samestat(os.fstat(ram.source.fd), os.fstat(memfd))
            assert ram.source.text == f"qmp:{qemu.socket}:mem0"
    finally:
        os.close(memfd)


def test_a_directory_as_mem_path(shm_folder: Path, tmp_path: Path) -> None:
    backend = file_backend("64M", shm_folder)
    with bare_qemu("-S", *backend, machine="q35,memory-backend=mem0") as qemu, opened(qemu) as vm:
        (ram,) = vm.rams
        check_regions(qemu, ram, tmp_path)


def plug(qemu: BareQemu, name: str) -> None:
    qemu.qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": name, "size": 128 * MIB})
    qemu.qmp("device_add", driver="pc-dimm", id=f"dimm-{name}", memdev=name)


def test_a_dimm_that_is_plugged(tmp_path: Path) -> None:
    machine = "q35,memory-backend=mem0"
    with bare_qemu(*memfd_backend("64M"), machine=machine, size="64M,slots=2,maxmem=1G") as qemu:
        with opened(qemu) as vm:
            assert sorted(by_name(vm)) == ["mem0"]
        plug(qemu, "plugged")
        qemu.qmp("stop")
        with opened(qemu) as vm:
            rams = by_name(vm)
            assert sorted(rams) == ["mem0", "plugged"]
            (region,) = rams["plugged"].regions
            assert region[:2] == (4 * GIB, 128 * MIB)
            check_regions(qemu, rams["plugged"], tmp_path)


def test_a_virtio_mem_device() -> None:
    device = ("-device", "virtio-mem-pci,id=v,memdev=vm0,requested-size=0")
    backends = (*memfd_backend("64M"), *memfd_backend("256M", "vm0"))
    machine = "q35,memory-backend=mem0"
    with (
        bare_qemu("-S", *backends, *device, machine=machine, size="64M,maxmem=1G") as qemu,
        opened(qemu) as vm,
    ):
        ram = by_name(vm)["vm0"]
        assert ram.regions == (Region(4 * GIB, 256 * MIB, ram.regions[0].userspace_addr, 0),)


@pytest.mark.parametrize("more", ["file", "plain", "microvm"])
def test_private_ram(more: str, shm_folder: Path, tmp_path: Path) -> None:
    private = file_backend("64M", shm_folder / "ram", ",share=off")
    args, machine, name = {
        "file": (private, "q35,memory-backend=mem0", "mem0"),
        "plain": ((), "q35", "pc.ram"),
        "microvm": ((), "microvm", "microvm.ram"),
    }[more]
    with bare_qemu("-S", *args, machine=machine, size="64M") as qemu:
        with opened(qemu) as vm:
            (ram,) = vm.rams
            assert (ram.source.name, ram.start, ram.size) == (name, 0, 64 * MIB)
            assert not vm.unreadable
            check_regions(qemu, ram, tmp_path)
        report = pagecheck.scan(f"qmp:{qemu.socket}", pause=True)
        saved = tmp_path / "all"
        qemu.qmp("pmemsave", val=1 << 20, size=63 * MIB, filename=str(saved))
    assert report.answer == "paused"
    assert report.total.undecided == 0
    assert 0 < report.total.normal < 200
    assert (report.total.hole > 15000) == (more != "file")  # absent pages are read in the file
    expected = zero_pages(saved, 4096)  # above what QEMU maps over RAM
    assert (bits(report.blocks[0].zero, 64 * 256)[256:] == expected).all()


def test_a_private_node_beside_a_shared_one(tmp_path: Path) -> None:
    numa = ("-numa", "node,memdev=mem0", "-numa", "node,memdev=mem1", "-smp", "2")
    second = memfd_backend("64M", "mem1", ",share=off")
    with bare_qemu("-S", *memfd_backend("64M"), *second, *numa, size="128M") as qemu:
        with opened(qemu) as vm:
            shared, private = vm.rams
            assert (shared.source.name, private.source.name) == ("mem0", "mem1")
            assert private.regions[0][:2] == (64 * MIB, 64 * MIB)
            check_regions(qemu, shared, tmp_path)
            check_regions(qemu, private, tmp_path)
        report = pagecheck.scan(f"qmp:{qemu.socket}", gpa=True, out=tmp_path / "out")
    assert [each.block.name for each in report.blocks] == ["mem0", "mem1"]
    assert report.answer == "live"
    assert "mem1: it is the private memory of a running process" in (report.why_live or "")
    assert report.total.undecided == 0
    assert report.blocks[1].counts.normal == 2
    assert report.blocks[1].regions == private.regions
    bitmap = (tmp_path / "out" / "mem1.zero").read_bytes()
    assert sum(map(int.bit_count, bitmap)) == 64 * 256 - 2


@contextlib.contextmanager
def relayed(path: Path, through: Path) -> Iterator[None]:
    """Passes one connection on, as a proxy in front of QEMU's socket does."""

    def relay(listener: socket.socket) -> None:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        with near, far:
            far.connect(str(path))
            while True:
                for ready in select.select([near, far], [], [], 30.0)[0]:
                    if not (part := ready.recv(65536)):
                        return
                    (far if ready is near else near).sendall(part)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(through))
        listener.listen()
        thread = threading.Thread(target=relay, args=(listener,))
        thread.start()
        yield
        thread.join()


def test_a_listener_that_is_not_qemu(shm_folder: Path, tmp_path: Path) -> None:
    """The process that listens maps none of the VM's RAM; the path of a file is all there is, and
    the user has to vouch for it."""
    machine = "q35,memory-backend=mem0"
    backend = file_backend("64M", shm_folder / "ram")
    with (
        bare_qemu("-S", *backend, machine=machine) as qemu,
        relayed(qemu.socket, tmp_path / "proxy"),
        open_vm(f"qmp:{tmp_path}/proxy", trust_path=True) as vm,
    ):
        assert "nothing proves" in vm.notes[0]
        (ram,) = vm.rams
        assert same_file(ram.source.fd, shm_folder / "ram")
        assert [each.mmap_offset for each in ram.regions] == [0, 1 * MIB]
        check_regions(qemu, ram, tmp_path)
    with (
        bare_qemu("-S", *backend, machine=machine) as qemu,
        relayed(qemu.socket, tmp_path / "proxy2"),
        pytest.raises(SourceError, match=r"does not map it; run pagecheck as .*--trust-path"),
    ):
        open_vm(f"qmp:{tmp_path}/proxy2")
