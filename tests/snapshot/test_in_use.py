"""Who has a file mapped, where the kernel shows another device for it than stat(2) does."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from pagecheck.shm import mounts
from pagecheck.snapshot import in_use
from pagecheck.snapshot.in_use import mappers_of
from tests.support.file_systems import mounted

MIB = 1 << 20


@pytest.mark.parametrize("kind", ["tmpfs", "btrfs"])
def test_a_mapping_without_a_descriptor_is_seen(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind, "128M") as at:
        ram = at / "ram"
        ram.write_bytes(bytes(MIB))
        fd = os.open(ram, os.O_RDWR)
        told, tell = os.pipe()
        end, ended = os.pipe()
        if (child := os.fork()) == 0:
            _map_and_close(fd)
            os.write(tell, b"x")
            os.close(ended)
            os.read(end, 1)
            os._exit(0)
        try:
            os.close(end)
            assert os.read(told, 1) == b"x"
            assert mappers_of(fd, 0).startswith(f"process {child} ")
            assert mappers_of(fd, 0).endswith(" has it mapped for writing")
            assert mappers_of(fd, child) == ""
        finally:
            for each in (told, tell, ended, fd):
                os.close(each)
            os.waitpid(child, 0)


def _map_and_close(fd: int) -> None:
    """As libvhost-user does; Python's mmap would keep a descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    both = mmap.PROT_READ | mmap.PROT_WRITE
    libc.mmap(None, ctypes.c_size_t(MIB), both, mmap.MAP_SHARED, fd, ctypes.c_long(0))
    os.close(fd)


@pytest.mark.parametrize("same_number", [False, True])
def test_no_file_of_a_stalled_file_system_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_number: bool
) -> None:
    """Another process has one open, of its own number, or of that of ours."""
    ram, other = tmp_path / "ram", tmp_path / "other"
    for each in (ram, other):
        each.write_bytes(bytes(MIB))
    end, ended = os.pipe()
    with mounted(tmp_path, "tmpfs", "1M") as at, ram.open("r+b") as file:
        (at / "file").write_bytes(b"")
        stalled = (at / "file").open("r+b")
        numbers = {stalled.fileno(): "7" if same_number else "8", file.fileno(): "7"}
        look = in_use._fdinfo
        child = _child(end, ended)
        try:
            stat = os.stat
            was_asked: list[Any] = []

            def fdinfo(folder: str, fd: int | str) -> dict[str, str]:
                found = look(folder, fd)
                if folder in ("/proc/self", f"/proc/{child}") and int(fd) in numbers:
                    found["ino"] = numbers[int(fd)]
                return found

            def asked(path: Any, *args: Any, **more: Any) -> os.stat_result:
                was_asked.append(path)
                return stat(path, *args, **more)

            monkeypatch.setattr(in_use, "_fdinfo", fdinfo)
            monkeypatch.setattr(os, "stat", asked)
            monkeypatch.setattr(mounts, "NEVER_STALL", mounts.NEVER_STALL - {"tmpfs"})
            found = mappers_of(file.fileno(), 0)
            monkeypatch.undo()
            assert found.startswith(f"process {child} ")
            assert found.endswith(" has it open for writing")
            assert f"/proc/{child}/fd/{file.fileno()}" in was_asked
            assert f"/proc/{child}/fd/{stalled.fileno()}" not in was_asked
        finally:
            os.close(ended)
            os.waitpid(child, 0)
            stalled.close()


def _child(end: int, ended: int) -> int:
    if child := os.fork():
        os.close(end)
        return child
    os.close(ended)
    os.read(end, 1)
    os._exit(0)
