"""The list of running VMs, by processes that are like VMMs; tests/vm has real ones."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pagecheck
from pagecheck import RunningVm
from pagecheck.errors import SourceError
from pagecheck.vmm.find import listing
from tests.support.stand_ins import stand_in
from tests.support.users import as_nobody, in_a_child, in_a_fork, needs_root

MIB = 1 << 20
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000


def of(pid: int) -> RunningVm | None:
    found = [vm for vm in pagecheck.list_vms() if vm.pid == pid]
    assert len(found) <= 1
    return found[0] if found else None


def the_vm(pid: int) -> RunningVm:
    found = of(pid)
    assert found is not None
    return found


@pytest.fixture
def path() -> Iterator[str]:
    """For a socket; the folders of pytest are too long for one."""
    made = Path(f"/tmp/pctest-{uuid.uuid4().hex[:8]}.sock")
    yield str(made)
    made.unlink(missing_ok=True)


def test_firecracker(path: str) -> None:
    does = f"(private(64 << 20, 0x4000), listen({path!r}))"  # MAP_NORESERVE
    with stand_in("firecracker", "--id", "vm7", "--api-sock", path, does=does) as pid:
        assert the_vm(pid) == RunningVm(
            pid=pid,
            uid=os.getuid(),
            vmm="Firecracker",
            name="vm7",
            ram_bytes=64 * MIB,
            backing="private",
            sources=(f"fc:{path}", f"pid:{pid}"),
            in_use=(),
            readable=True,
            why=None,
            way_out=None,
        )


def test_cloud_hypervisor(path: str) -> None:
    said = ("--api-socket", f"path={path}", "--kernel", "k", "--memory", "size=32M,shared=on")
    does = f"(shared('ch_ram', 32 << 20), listen({path!r}))"
    with stand_in("/usr/bin/cloud-hypervisor", *said, does=does) as pid:
        vm = the_vm(pid)
        assert vm[2:7] == (
            "Cloud Hypervisor",
            None,
            32 * MIB,
            "shared",
            (f"ch:{path}", f"pid:{pid}"),
        )
        assert vm.readable


def test_crosvm_is_one_vm_with_its_devices(path: str) -> None:
    said = ("run", "--name", "box", "-s", path, "--mem", "32", "vmlinux")
    does = "(shared('crosvm_guest', 32 << 20), os.fork() or os._exit(len(sys.stdin.read())))"
    before = {vm.pid for vm in pagecheck.list_vms()}
    with stand_in("crosvm", *said, does=does) as pid:
        assert len(psutil.Process(pid).children()) == 1
        new = [vm for vm in pagecheck.list_vms() if vm.pid not in before and vm.vmm == "crosvm"]
        assert [vm.pid for vm in new] == [pid]
        assert new[0][2:7] == ("crosvm", "box", 32 * MIB, "shared", (f"pid:{pid}",))


def test_virtualbox_keeps_its_ram() -> None:
    with stand_in("VBoxHeadless", "--comment", "win", "--startvm", str(uuid.uuid4())) as pid:
        vm = the_vm(pid)
        assert (vm.vmm, vm.name, vm.readable) == ("VirtualBox", "win", False)
        assert "belongs to its driver" in str(vm.why)
    with stand_in("VirtualBox") as pid:  # its window that lists VMs
        assert of(pid) is None


def test_any_process_with_a_vm_of_kvms() -> None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"needs /dev/kvm: {error}")
    with stand_in("mymon", "--fast", does="(kvm_vm(), private(32 << 20))") as pid:
        vm = the_vm(pid)
        assert vm[2:7] == ("kvm", None, 32 * MIB, "private", (f"pid:{pid}",))
    with stand_in("mymon", does="(kvm_vm(), shared('ram', 32 << 20))") as pid:
        assert the_vm(pid)[2:6] == ("kvm", None, 32 * MIB, "shared")


def test_what_holds_no_vm_is_none() -> None:
    with stand_in("mymon", does="private(64 << 20)") as pid:
        assert of(pid) is None


def test_a_socket_is_relative_to_the_folder_of_its_process(path: str) -> None:
    name = os.path.basename(path)
    with stand_in("firecracker", "--api-sock", name, does=f"listen({name!r})", cwd="/tmp") as pid:
        assert the_vm(pid).sources == (f"fc:/tmp/{name}", f"pid:{pid}")


@needs_root
def test_a_socket_in_a_root_of_its_own(shm_folder: Path) -> None:
    """A jailer's."""
    does = f"(os.chroot({str(shm_folder)!r}), os.chdir('/'), listen('/api'))"
    with stand_in("firecracker", "--api-sock", "/api", does=does) as pid:
        source, _ = the_vm(pid).sources
        assert source == f"fc:/proc/{pid}/root/api"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(source.removeprefix("fc:"))


def test_a_socket_that_the_process_does_not_listen_on(path: str) -> None:
    """Another one took its path, or its VM ended."""
    with stand_in("firecracker", "--api-sock", path) as pid:
        assert the_vm(pid).sources == (f"pid:{pid}",)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with stand_in("firecracker", "--api-sock", path, does=f"listen({path + '2'!r})") as pid:
            os.unlink(path + "2")
            assert the_vm(pid).sources == (f"pid:{pid}",)


@needs_root
def test_a_vm_of_another_user(path: str) -> None:
    said = ("-name", "web", "-m", "32", "-qmp", f"unix:{path},server=on,wait=off")
    with stand_in("qemu-system-x86_64", *said, does=f"listen({path!r})") as pid:

        def look() -> None:
            vm = the_vm(pid)
            assert vm[2:6] == ("QEMU", "web", 32 * MIB, "private")
            assert vm.sources == (f"pid:{pid}",)  # nobody may connect to the socket
            assert vm.why == "it runs as uid 0, pagecheck as uid 65534"
            assert vm.way_out == "run pagecheck as uid 0, or as root"

        in_a_child(look)
        os.chmod(path, 0o777)

        def look_again() -> None:
            assert the_vm(pid).sources == (f"qmp:{path}", f"pid:{pid}")

        in_a_child(look_again)


@needs_root
def test_a_vm_in_a_user_namespace() -> None:
    with stand_in("firecracker", "--id", "jailed", before=("unshare", "-Ur")) as pid:
        vm = the_vm(pid)
        assert (vm.vmm, vm.name, vm.readable) == ("Firecracker", "jailed", True)


def test_a_confidential_vm_is_not_readable() -> None:
    said = ("-m", "32", "-machine", "q35,confidential-guest-support=sev0")
    with stand_in("qemu-system-x86_64", *said, "-object", "sev-guest,id=sev0") as pid:
        vm = the_vm(pid)
        assert not vm.readable
        assert "confidential VM" in str(vm.why)


@pytest.mark.parametrize("step", ["command_line_of", "may_inspect", "ram_of", "reach_of"])
def test_a_process_that_ends_meanwhile_is_left_out(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with stand_in("firecracker", "--id", "short") as pid:
        real = getattr(listing, step)

        def then_ends(*given: object) -> object:
            done = real(*given)
            if any(pid == each or getattr(each, "pid", 0) == pid for each in given) or (
                f"/proc/{pid}" in given
            ):
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return done

        monkeypatch.setattr(listing, step, then_ends)
        assert of(pid) is None


def test_a_name_that_is_not_text() -> None:
    with stand_in("firecracker", os.fsdecode(b"--id"), os.fsdecode(b"\xff\x1b[2J")) as pid:
        assert the_vm(pid).name == os.fsdecode(b"\xff\x1b[2J")


def unshare(flags: int) -> None:
    assert ctypes.CDLL(None).unshare(flags) == 0


@needs_root
def test_a_proc_that_hides_others() -> None:
    with stand_in("firecracker") as pid:

        def look() -> None:
            unshare(CLONE_NEWNS)
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            command = ["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"]
            subprocess.run(command, check=True)
            assert of(pid) is not None
            assert "hidepid" in str(listing.hidden_processes())
            as_nobody()
            assert of(pid) is None

        in_a_fork(look)
    assert listing.hidden_processes() is None


@needs_root
def test_the_proc_of_another_pid_namespace() -> None:
    def look() -> None:
        with pytest.raises(SourceError, match="not of this pid namespace"):
            pagecheck.list_vms()

    def fork_again() -> None:
        unshare(CLONE_NEWPID)
        in_a_fork(look)

    in_a_fork(fork_again)
