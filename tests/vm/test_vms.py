"""The list of running VMs, with real QEMUs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck import RunningVm
from tests.support.command import pagecheck as command
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend

MIB = 1 << 20
STOPPED = ("-S", "-name", "guest=web-1,debug-threads=on")


def of(qemu: BareQemu) -> RunningVm:
    (found,) = [vm for vm in pagecheck.list_vms() if vm.pid == qemu.pid]
    return found


def test_plain_memory_is_private() -> None:
    with bare_qemu(*STOPPED) as qemu:
        vm = of(qemu)
        assert vm[2:6] == ("QEMU", "web-1", 64 * MIB, "private")
        assert vm.sources == (f"qmp:{qemu.socket}", f"pid:{qemu.pid}")
        assert vm.readable
        assert vm.in_use == ()


def test_no_socket_is_connected_to() -> None:
    """QEMU would say so by an event to nobody; here its listener's queue would have somebody."""
    with bare_qemu(*STOPPED) as qemu:
        before = Path(f"/proc/{qemu.pid}/net/unix").read_text().count(str(qemu.socket))
        assert of(qemu).readable
        assert Path(f"/proc/{qemu.pid}/net/unix").read_text().count(str(qemu.socket)) == before == 1


def test_shared_memory_can_be_scanned_as_it_is_listed() -> None:
    with bare_qemu(*STOPPED, *memfd_backend("64M"), machine="q35,memory-backend=mem0") as qemu:
        vm = of(qemu)
        assert vm[2:6] == ("QEMU", "web-1", 64 * MIB, "shared")
        for source in vm.sources:
            assert pagecheck.scan(source).total.undecided == 0


@pytest.mark.parametrize("share", ["on", "off"])
def test_huge_pages(share: str) -> None:
    """None is taken: nothing runs."""
    more = f",hugetlb=on,hugetlbsize=2M,reserve=off,share={share}"
    backend = memfd_backend("64M", more=more)
    with bare_qemu(*STOPPED, *backend, machine="q35,memory-backend=mem0") as qemu:
        assert of(qemu)[4:6] == (64 * MIB, "hugetlb")


def test_a_shared_and_a_private_node() -> None:
    nodes = [*memfd_backend("48M", "a"), "-object", "memory-backend-ram,id=b,size=16M"]
    nodes += ["-numa", "node,memdev=a", "-numa", "node,memdev=b"]
    with bare_qemu(*STOPPED, *nodes) as qemu:
        assert of(qemu)[4:6] == (64 * MIB, "mixed")


@pytest.fixture
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """A listener that a launcher made, as libvirt does."""
    path = f"/tmp/pctest-monitor-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        made.listen()
        yield made
    os.unlink(path)


def test_as_libvirt_starts_it(monitor: socket.socket) -> None:
    """Its monitor has a client, which is libvirt."""
    arguments = [
        *("-chardev", f"socket,id=charmonitor,fd={monitor.fileno()},server=on,wait=off"),
        *("-mon", "chardev=charmonitor,id=monitor,mode=control"),
        *("-object", '{"qom-type":"memory-backend-ram","id":"pc.ram","size":67108864}'),
    ]
    with bare_qemu(
        *STOPPED, *arguments, machine="q35,memory-backend=pc.ram", fds=[monitor.fileno()]
    ) as qemu:
        theirs = f"qmp:{monitor.getsockname()}"
        ours = f"qmp:{qemu.socket}"
        assert of(qemu).sources == (ours, theirs, f"pid:{qemu.pid}")
        with socket.socket(socket.AF_UNIX) as libvirt:
            libvirt.connect(monitor.getsockname())
            assert libvirt.recv(100).startswith(b'{"QMP"')
            vm = of(qemu)
        assert vm[2:6] == ("QEMU", "web-1", 64 * MIB, "private")
        assert vm.sources == (ours, f"pid:{qemu.pid}")
        assert vm.in_use == (theirs,)


def test_the_command() -> None:
    with bare_qemu("-S", "-name", "\x1b[2Jweb") as qemu:
        listed = json.loads(command("vms", "--json").stdout)
        assert listed["version"] == 1
        (vm,) = [each for each in listed["vms"] if each["pid"] == qemu.pid]
        assert vm == {**of(qemu)._asdict(), "sources": [*of(qemu).sources], "in_use": []}
        done = command("vms")
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        head, *rows = done.stdout.splitlines()
        assert head.split() == ["pid", "VMM", "name", "RAM", "backing", "readable", "source"]
        (row,) = [each for each in rows if each.split()[0] == str(qemu.pid)]
        assert "\\x1b[2Jweb" in row
        assert row.endswith(f"private  yes       qmp:{qemu.socket}, pid:{qemu.pid}")
