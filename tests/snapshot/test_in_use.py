"""Who has a file mapped, where the kernel shows another device for it than stat(2) does."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

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
