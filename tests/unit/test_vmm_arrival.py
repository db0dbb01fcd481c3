"""RAM that is still to come: what QEMU tells, what the kernel tells, what a command line tells."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pagecheck.errors import ResourceError, SourceError
from pagecheck.vmm import open_vm
from pagecheck.vmm.find.arrival import may_be_destination, missing_files, not_arrived
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.limits import no_descriptor

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(os.uname().machine, -1)
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
MISSING, WRITE_PROTECTED = 1, 2


class Told:
    """In place of a `QemuMonitor`."""

    name = "qmp:x"

    def __init__(self, status: object, migration: object) -> None:
        self.answers = {"query-status": status, "query-migrate": migration}

    def execute(self, command: str) -> Any:
        return self.answers[command]


def doubt(status: str, migration: object) -> str | None:
    told = Told({"status": status, "running": status == "running"}, migration)
    return not_arrived(told)  # type: ignore[arg-type]


@pytest.mark.long(but="migration0")
@pytest.mark.parametrize("status", ["running", "paused", "prelaunch", "postmigrate", "shutdown"])
@pytest.mark.parametrize(
    "migration",
    [
        {},
        {"status": "none"},
        {"status": "completed"},
        {"status": "active", "ram": {}},
        {"status": "postcopy-active", "ram": {}},
        {"status": "setup"},
        {"status": "cancelled"},
        {"status": "failed", "error-desc": "no"},
        {"status": "completed", "postcopy-blocktime": 3, "socket-address": []},
    ],
)
def test_ram_that_is_all_there(status: str, migration: object) -> None:
    assert doubt(status, migration) is None


@pytest.mark.parametrize("status", ["running", "paused"])
@pytest.mark.parametrize(
    "told", ["active", "postcopy-active", "postcopy-paused", "postcopy-recover", "colo", "new-one"]
)
def test_a_destination(status: str, told: str) -> None:
    why = doubt(status, {"status": told})
    assert why is not None
    assert f"migration that is {told}: memory that has not arrived is not zero" in why


@pytest.mark.long(but="inmigrate")
@pytest.mark.parametrize("migration", [{}, {"status": "completed"}, {"status": "active", "ram": 1}])
@pytest.mark.parametrize("status", ["inmigrate", "restore-vm", "preconfig"])
def test_statuses_without_all_of_the_ram(status: str, migration: object) -> None:
    assert "memory that has not arrived is not zero" in str(doubt(status, migration))


@contextlib.contextmanager
def process_with(mode: int, name: str = "ch_ram") -> Iterator[int]:
    """A process that has its guest RAM registered with a userfaultfd; gives its pid."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        fd = os.memfd_create(name)
        os.truncate(fd, MIB)
        at = libc.mmap(None, MIB, 3, 1, fd, 0)
        uffd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
        answer = b"0"
        with contextlib.suppress(OSError, ValueError):  # there is none, or not for this user
            fcntl.ioctl(uffd, UFFDIO_API, (ctypes.c_uint64 * 3)(0xAA))
            if mode:
                fcntl.ioctl(uffd, UFFDIO_REGISTER, (ctypes.c_uint64 * 4)(at, MIB, mode))
            answer = b"1"
        os.write(said, answer)
        signal.pause()
        os._exit(0)
    os.close(said)
    try:
        if os.read(ready, 1) != b"1":
            pytest.skip("this kernel, or its settings, give no userfaultfd")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)


@pytest.mark.parametrize("source", ["pid:{}", "pid:{}:ch_ram"])
def test_pages_that_are_asked_for_on_demand(source: str) -> None:
    with (
        process_with(MISSING) as pid,
        pytest.raises(SourceError, match=r"ch_ram: pages of it have yet to arrive \(userfaultfd\)"),
    ):
        open_vm(source.format(pid))


@pytest.mark.parametrize("mode", [0, WRITE_PROTECTED])
def test_a_userfaultfd_for_something_else(mode: int) -> None:
    with process_with(mode) as pid, open_vm(f"pid:{pid}") as vm:
        assert [ram.source.name for ram in vm.rams] == ["ch_ram"]
        assert vm.doubt() is None


def test_a_large_process_is_asked_only_if_it_holds_one() -> None:
    with process_with(MISSING) as pid, ProcessMemory(pid) as process:
        assert len(missing_files(process, at_most_pages=0)) == 1
    with ProcessMemory(os.getpid()) as process:
        assert missing_files(process, at_most_pages=0) == set()


def test_ram_that_is_taken_away_during_a_scan() -> None:
    """A VMM that begins to swap its guest: pages that were there are holes by now."""
    with process_with(MISSING) as pid, ProcessMemory(pid) as process:
        (mapping,) = [each for each in process.mappings() if "ch_ram" in each.path]
        with process_with(0) as other, open_vm(f"pid:{other}") as vm:
            assert vm.doubt() is None
            assert vm._process is not None
            vm._process.close()
            vm._process = process
            process.used.append(mapping)
            assert "pages of its RAM have yet to arrive" in str(vm.doubt())
            with no_descriptor(), pytest.raises(ResourceError, match="ulimit -n"):
                vm.doubt()  # it cannot be seen, and is not taken for one that has arrived


class Started:
    """In place of a `ProcessMemory`."""

    def __init__(self, line: str, program: str = "") -> None:
        self._words, self._program = line.split(), program

    def program(self) -> str:
        return self._program or self._words[0]

    def command_line(self) -> list[str]:
        return [*self._words, ""]


@pytest.mark.long(but="cloud")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/usr/bin/qemu-system-x86_64 -m 4G -name incoming", False),
        ("/usr/libexec/qemu-kvm -m 4G", False),
        ("/usr/bin/qemu-system-x86_64 -m 4G -incoming defer", True),
        ("qemu-system-aarch64 --incoming tcp:0:4444", True),
        ("cloud-hypervisor --kernel=/vmlinux --memory size=1G,shared=on", False),
        ("cloud-hypervisor --api-socket /run/ch.sock --firmware x", False),
        ("cloud-hypervisor --api-socket /run/ch.sock", True),
        ("crosvm run --mem 1024 vmlinux", False),
        ("crosvm run --restore snapshot", True),
        ("firecracker --api-sock /run/fc.sock", False),
        ("my-vmm", True),
    ],
)
def test_what_a_command_line_tells(line: str, expected: bool) -> None:
    assert may_be_destination(Started(line)) is expected  # type: ignore[arg-type]


def test_a_renamed_qemu() -> None:
    started = Started("vm1 -m 4G", program="/nix/store/bin/.qemu-system-x86_64-wrapped")
    assert may_be_destination(started) is False  # type: ignore[arg-type]
