"""Guest RAM found by QEMU's process id."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm import Vm, open_vm
from tests.vm.bare_qemu import bare_qemu, file_backend, memfd_backend, same_file
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = pytest.mark.usefixtures("guest_files", "clean")

MIB = 1 << 20


def only(vm: Vm) -> tuple[int, int, int]:
    """Descriptor, start and size of the one block that there must be."""
    (ram,) = vm.rams
    return ram.source.fd, ram.start, ram.size


def test_the_ram_of_a_real_guest(guest: Guest) -> None:
    with open_vm(f"pid:{guest.pid}") as vm:
        fd, start, size = only(vm)
        assert same_file(fd, guest.ram_path)
        assert (start, size) == (0, guest.spec.size_bytes)
        assert vm.rams[0].source.name == guest.ram_path.name
        assert vm.rams[0].source.text == f"pid:{guest.pid}:{guest.ram_path.name}"
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert vm.rams[0].regions == ()


def test_by_its_name(guest: Guest) -> None:
    with open_vm(f"pid:{guest.pid}:{guest.ram_path.name}") as vm:
        assert same_file(only(vm)[0], guest.ram_path)
    with pytest.raises(SourceError, match=re.escape(repr(guest.ram_path.name))):
        open_vm(f"pid:{guest.pid}:another")


def test_it_cannot_be_paused_by_its_pid(guest: Guest) -> None:
    with open_vm(f"pid:{guest.pid}") as vm:
        assert not vm.can_pause
        assert vm.is_stopped() is None
        with pytest.raises(UsageError, match="qmp:SOCKET"):
            vm.pause(1)
        with pytest.raises(UsageError, match="qmp:SOCKET"):
            vm.resume()


@pytest.mark.parametrize("machine", ["q35", "microvm,acpi=off"])
def test_a_memfd(machine: str) -> None:
    with bare_qemu(*memfd_backend("64M"), machine=f"{machine},memory-backend=mem0") as qemu:
        qemu.qmp("stop")
        with open_vm(f"pid:{qemu.pid}") as vm:
            fd, start, size = only(vm)
            assert vm.rams[0].source.name == "memory-backend-memfd"
            assert (start, size, vm.rams[0].source.size) == (0, 64 * MIB, 64 * MIB)
            pattern = os.urandom(32)
            with memfd_of(qemu.pid).open("r+b") as file:
                os.pwrite(file.fileno(), pattern, 40 * MIB)
            assert os.pread(fd, 32, 40 * MIB) == pattern


def memfd_of(pid: int) -> Path:
    """The link to the process's guest RAM."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return next(each for each in links if "memfd:memory-backend-memfd" in os.readlink(each))


def test_two_memfds_have_two_names() -> None:
    numa = ("-numa", "node,memdev=mem0", "-numa", "node,memdev=mem1", "-smp", "2")
    backends = (*memfd_backend("64M"), *memfd_backend("64M", "mem1"))
    with bare_qemu("-S", *backends, *numa, size="128M") as qemu, open_vm(f"pid:{qemu.pid}") as vm:
        names = [ram.source.name for ram in vm.rams]
        assert names == ["memory-backend-memfd", "memory-backend-memfd-2"]
        inodes = {os.fstat(ram.source.fd).st_ino for ram in vm.rams}
        assert len(inodes) == 2
        second = os.fstat(vm.rams[1].source.fd).st_ino
        with open_vm(f"pid:{qemu.pid}:memory-backend-memfd-2") as one:
            assert os.fstat(only(one)[0]).st_ino == second


def test_a_memfd_of_the_launcher() -> None:
    memfd = os.memfd_create("launched")
    try:
        os.ftruncate(memfd, 64 * MIB)
        backend = file_backend("64M", f"/dev/fd/{memfd}")
        with (
            bare_qemu("-S", *backend, machine="q35,memory-backend=mem0", fds=[memfd]) as qemu,
            open_vm(f"pid:{qemu.pid}") as vm,
        ):
            assert vm.rams[0].source.name == "launched"
            assert os.path.samestat(os.fstat(only(vm)[0]), os.fstat(memfd))
    finally:
        os.close(memfd)


@pytest.mark.parametrize("backend", [False, True])
def test_private_ram(backend: bool, shm_folder: Path) -> None:
    args = file_backend("64M", shm_folder / "private", ",share=off") if backend else ()
    machine = "q35,memory-backend=mem0" if backend else "q35"
    with bare_qemu("-S", *args, machine=machine) as qemu:
        report = pagecheck.scan(f"pid:{qemu.pid}")
        by_monitor = pagecheck.scan(f"qmp:{qemu.socket}")
    assert (report.answer, report.total.undecided) == ("live", 0)
    assert report.total == by_monitor.total
    assert bytes(report.blocks[0].zero) == bytes(by_monitor.blocks[0].zero)


def test_a_qemu_that_ended(guest_files: GuestFiles) -> None:
    with bare_qemu("-S", *memfd_backend("64M"), machine="q35,memory-backend=mem0") as qemu:
        vm = open_vm(f"pid:{qemu.pid}")
        qemu.process.kill()
        qemu.process.wait(10)
        with vm:
            assert os.pread(only(vm)[0], 16, 0) is not None  # the file outlives its process
        with pytest.raises(SourceError, match="no such process"):
            open_vm(f"pid:{qemu.pid}")
