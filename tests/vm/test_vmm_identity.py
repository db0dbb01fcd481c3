"""The file behind QEMU's RAM where names lie: replaced files, other namespaces, missing rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.command import PAGECHECK, scan_json
from tests.vm.bare_qemu import BareQemu, bare_qemu, file_backend, memfd_backend

pytestmark = [
    pytest.mark.usefixtures("guest_files", "clean"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and capabilities"),
]

MIB = 1 << 20
SIZE = 64 * MIB
SCAN = (PAGECHECK, "scan", "--json")
MACHINE = "q35,memory-backend=mem0"
OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")
NO_MAP_FILES = ("cap_sys_admin", "cap_checkpoint_restore")
NOTHING_OF_OTHERS = (*NO_MAP_FILES, "cap_sys_ptrace", "cap_perfmon")


def without(*capabilities: str) -> tuple[str, ...]:
    """A prefix that drops capabilities."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    dropped = ",".join(f"-{each.removeprefix('cap_')}" for each in capabilities)
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", "--")


@pytest.fixture
def ram(shm_folder: Path) -> Path:
    shm_folder.chmod(0o755)
    return shm_folder / "ram"


@pytest.fixture
def full(ram: Path) -> Iterator[BareQemu]:
    """A VM without a page that is zero; by now there is a file of zeros under its RAM's path."""
    with bare_qemu("-S", *file_backend("64M", ram), machine=MACHINE) as qemu:
        with ram.open("r+b") as file:
            file.write(b"x" * SIZE)
        ram.rename(ram.with_name("old"))
        ram.write_bytes(bytes(SIZE))
        yield qemu


def scanned(prefix: Sequence[str], *arguments: str) -> tuple[int, str]:
    """Exit code and error line of a scan; an answer must be that no page is zero."""
    done = subprocess.run(
        [*prefix, *SCAN, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    report = json.loads(done.stdout)
    if done.returncode == 0:
        assert report["total"]["normal"] == SIZE // 4096
    return done.returncode, done.stderr


@pytest.mark.long(but="root")
@pytest.mark.parametrize("by", ["qmp", "pid"])
@pytest.mark.parametrize("rights", [(), NO_MAP_FILES], ids=["root", "by descriptor"])
def test_a_replaced_file(full: BareQemu, by: str, rights: tuple[str, ...]) -> None:
    source = f"qmp:{full.socket}" if by == "qmp" else f"pid:{full.pid}"
    code, said = scanned(without(*rights) if rights else (), source)
    assert code == 0, said


def test_without_the_right_to_look_at_the_process(full: BareQemu, ram: Path) -> None:
    code, said = scanned(without(*NOTHING_OF_OTHERS), f"qmp:{full.socket}")
    assert code == 2
    assert f"cannot prove which file the memory of mem0 is: process {full.pid}" in said
    assert said.endswith(f"vouch for {ram} with --trust-path\n")
    code, said = scanned(without(*NOTHING_OF_OTHERS), f"pid:{full.pid}")
    assert code == 2
    assert "not permitted" in said


def test_a_path_of_another_mount_namespace(full: BareQemu, ram: Path) -> None:
    """What is mounted over the folder here is nothing to QEMU."""
    over = f'mount -t tmpfs none {ram.parent} && truncate -s {SIZE} {ram} && exec "$@"'
    code, said = scanned(("unshare", "--mount", "sh", "-c", over, "sh"), f"qmp:{full.socket}")
    assert code == 0, said


def test_a_pid_namespace_without_qemu(ram: Path) -> None:
    with bare_qemu("-S", *file_backend("64M", ram), machine=MACHINE) as qemu:
        with ram.open("r+b") as file:
            file.write(b"x" * SIZE)
        code, said = scanned(OWN_PIDS, f"qmp:{qemu.socket}")
        assert code == 2
        assert "cannot be seen from here (another pid namespace)" in said
        assert said.endswith(f"vouch for {ram} with --trust-path\n")
        trusted = subprocess.run(
            [*OWN_PIDS, *SCAN, "--trust-path", f"qmp:{qemu.socket}"],
            capture_output=True,
            timeout=60,
            check=True,
        )
        report = json.loads(trusted.stdout)
        assert report["total"]["normal"] == SIZE // 4096
        (note,) = report["notes"]
        assert f"{ram} was opened by its name (--trust-path), and nothing proves" in note


def test_a_qemu_of_another_user(shm_folder: Path) -> None:
    """-runas: not even its files tell whose they are."""
    shm_folder.chmod(0o755)
    run_as = ("-runas", "nobody")
    with bare_qemu("-S", *memfd_backend("64M"), *run_as, machine=MACHINE) as qemu:
        memfd = next(
            each
            for each in Path(f"/proc/{qemu.pid}/fd").iterdir()
            if "memfd:memory-backend-memfd" in os.readlink(each)
        )
        with memfd.open("r+b") as file:
            file.write(b"x" * SIZE)
        assert scanned((), f"qmp:{qemu.socket}")[0] == 0
        code, said = scanned(without(*NOTHING_OF_OTHERS), f"qmp:{qemu.socket}")
        assert code == 2
        assert "not permitted" in said
        assert "or give QEMU a memory-backend-file" in said


def test_anonymous_shared_memory() -> None:
    """`memory-backend-ram,share=on`: no descriptor leads to it, only map_files does."""
    backend = ("-object", "memory-backend-ram,id=mem0,size=64M,share=on")
    with bare_qemu("-S", *backend, machine=MACHINE) as qemu:
        for source in (f"qmp:{qemu.socket}", f"pid:{qemu.pid}"):
            assert scan_json(source)["total"]["zero"] == SIZE // 4096
            code, said = scanned(without(*NO_MAP_FILES), source)
            assert code == 2
            assert "map_files needs root or CAP_CHECKPOINT_RESTORE" in said
