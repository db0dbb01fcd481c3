"""A VMM's process that maps files beside its guest RAM: on file systems whose numbers are no proof,
and on one that does not answer."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import SourceError
from pagecheck.vmm import open_vm
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.file_systems import mounted
from tests.support.needs import needs_program
from tests.support.users import as_nobody, in_a_child, needs_root

pytestmark = pytest.mark.usefixtures("clean")

PAGES = 4096

# MAPPED [HELD]: maps the first file shared, without a descriptor; holds one of the second.
_VMM = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
fd = os.open(sys.argv[1], os.O_RDWR)
libc.mmap(None, 4096 * 4096, 3, 1, fd, 0)
os.close(fd)
kept = [os.open(path, os.O_RDWR) for path in sys.argv[2:]]
fd = os.memfd_create("ch_ram")
os.truncate(fd, 8192 * 4096)
os.pwrite(fd, b"x" * 3 * 4096, 0)
kept.append(mmap.mmap(fd, 0))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def vmm(*files: Path, nobody: bool = False) -> Iterator[int]:
    """A process with three pages of guest RAM in `ch_ram`; gives its pid."""
    more: dict[str, Any] = {"preexec_fn": as_nobody} if nobody else {}
    python = "/usr/bin/python3" if nobody else sys.executable
    if not os.path.exists(python):
        pytest.skip(f"needs {python}, which everybody may run")
    command = [python, "-S", "-c", _VMM]
    process = subprocess.Popen(
        [*command, *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def ram_file(path: Path, normal: int) -> Path:
    """4096 pages, some of which are not zero."""
    with path.open("wb") as file:
        file.truncate(PAGES * 4096)
        file.write(b"x" * normal * 4096)
    path.chmod(0o666)
    return path


def found(source: str) -> list[tuple[str, int, int]]:
    report = pagecheck.scan(source)
    assert report.total.undecided == 0
    return [(each.block.name, each.counts.normal, each.counts.pages) for each in report.blocks]


def left_out(pid: int, name: str) -> str:
    """What is said of a file while the guest beside it is answered."""
    report = pagecheck.scan(f"pid:{pid}")
    assert [each.block.name for each in report.blocks] == ["ch_ram"]
    assert (report.total.normal, report.total.undecided) == (3, 0)
    (note,) = [each for each in report.notes if name in each]
    return note


def test_btrfs_beside_guest_ram(tmp_path: Path) -> None:
    with mounted(tmp_path, "btrfs", "256M") as at, vmm(ram_file(at / "disk.img", 2)) as pid:
        assert "is a file on disk and is left out" in left_out(pid, "disk.img")
        assert found(f"pid:{pid}:disk.img") == [("disk.img", 2, PAGES)]


def test_a_snapshot_of_btrfs_has_the_same_numbers(tmp_path: Path) -> None:
    """The only descriptor is of the file in the snapshot, whose device and inode are the mapped
    file's; /proc/PID/map_files tells them apart, and nothing else does."""
    if shutil.which("btrfs") is None:
        pytest.skip("needs btrfs-progs")
    with mounted(tmp_path, "btrfs", "256M") as at:
        tmp_path.chmod(0o755)
        subprocess.run(["btrfs", "-q", "subvolume", "create", at / "a"], check=True)
        mapped = ram_file(at / "a" / "ram", 2)
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", at / "a", at / "b"], check=True)
        held = at / "b" / "ram"
        assert mapped.stat().st_ino == held.stat().st_ino
        ram_file(held, 0)
        with vmm(mapped, held) as pid:
            mapped.rename(mapped.with_name("other"))
            assert found(f"pid:{pid}:other") == [("other", 2, PAGES)]


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_nobody_by_a_descriptor(kind: str, tmp_path: Path) -> None:
    """Without the right to map_files a number is proof on ext4, and none on btrfs."""
    with mounted(tmp_path, kind, "256M") as at:
        for folder in (at, *tmp_path.parents, tmp_path):
            if folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o055)
        file = ram_file(at / "ram", 2)
        with vmm(file, file, nobody=True) as pid:

            def look() -> None:
                with ProcessMemory(pid) as process:
                    (mapping,) = [each for each in process.mappings() if each.path == str(file)]
                    if kind == "btrfs":
                        with pytest.raises(SourceError, match="an inode number proves nothing"):
                            process.open_file(mapping)
                        return
                    opened = process.open_file(mapping)
                    assert opened is not None
                    assert os.pread(opened.fd, 1, 0) == b"x"
                    os.close(opened.fd)

            in_a_child(look)


@contextlib.contextmanager
def overlay(at: Path) -> Iterator[Path]:
    """An overlay of folders in `at`."""
    for name in ("lower", "upper", "work", "merged"):
        (at / name).mkdir()
    layers = f"lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(at / "merged")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs overlayfs")
    try:
        yield at / "merged"
    finally:
        subprocess.run(["umount", str(at / "merged")], check=True)


def test_overlayfs_beside_guest_ram(tmp_path: Path) -> None:
    with (
        mounted(tmp_path, "ext4", "256M") as at,
        overlay(at) as merged,
        vmm(ram_file(merged / "disk.img", 2)) as pid,
    ):
        assert "is left out" in left_out(pid, "disk.img")
        with pytest.raises(SourceError, match=r"no RAM named 'disk.img'; there is 'ch_ram'"):
            found(f"pid:{pid}:disk.img")


def test_a_file_of_overlayfs_that_is_copied_up(tmp_path: Path) -> None:
    """A read-only mapping keeps the lower file; who opens it now gets the upper one."""
    with mounted(tmp_path, "ext4", "256M") as at, overlay(at) as merged:
        ram_file(at / "lower" / "ram", 2)
        with (merged / "ram").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        with mapped, ProcessMemory(os.getpid()) as process:
            with (merged / "ram").open("r+b") as file:
                file.write(bytes(4096))
            assert mapped[:1] == b"x"
            (mapping,) = [each for each in process.mappings() if each.path == str(merged / "ram")]
            assert mapping.perms == "r--s"
            with pytest.raises(SourceError, match="may have been copied up since"):
                process.open_file(mapping)


@needs_root
def test_a_file_system_that_does_not_answer_hides_no_guest(tmp_path: Path) -> None:
    needs_program("bindfs", "bindfs")
    (tmp_path / "below").mkdir()
    (tmp_path / "above").mkdir()
    ram_file(tmp_path / "below" / "disk.img", 2)
    daemon = subprocess.Popen(["bindfs", "-f", tmp_path / "below", tmp_path / "above"])
    try:
        while not os.path.ismount(tmp_path / "above"):
            assert daemon.poll() is None
        with vmm(tmp_path / "above" / "disk.img") as pid:
            daemon.send_signal(signal.SIGSTOP)
            try:
                with open_vm(f"pid:{pid}") as vm:
                    assert [ram.source.name for ram in vm.rams] == ["ch_ram"]
                    assert "it is on fuse" in " ".join(vm.notes)
                assert "whose reads need not be what is mapped" in left_out(pid, "disk.img")
            finally:
                daemon.send_signal(signal.SIGCONT)
    finally:
        subprocess.run(["umount", tmp_path / "above"], check=True)
        assert daemon.wait(10) == 0
