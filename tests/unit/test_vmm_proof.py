"""Which file is behind a mapping: proved for those who may look, and for those who may not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import SourceError
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import ProcessMemory
from pagecheck.vmm.process.proof import file_system_type, is_behind, shown_in_maps
from tests.support.users import as_nobody, in_a_child

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be two users")


@contextlib.contextmanager
def mapping_process(path: Path, *, keep: bool, flags: int = os.O_RDWR) -> Iterator[int]:
    """A process of nobody's that maps a file, shared, and keeps a descriptor of it or not; gives
    its pid."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        as_nobody()
        fd = os.open(path, flags)
        libc = ctypes.CDLL(None)
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mmap(None, MIB, 1 if flags == os.O_RDONLY else 3, 1, fd, 0)
        if not keep:
            os.close(fd)
        os.write(said, b"1")
        signal.pause()
        os._exit(0)
    os.close(said)
    try:
        assert os.read(ready, 1) == b"1"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)


@pytest.fixture
def ram(shm_folder: Path) -> Path:
    path = shm_folder / "ram"
    path.write_bytes(b"right" + bytes(MIB - 5))
    for each, mode in ((shm_folder, 0o755), (path, 0o666)):
        each.chmod(mode)
    return path


def content(pid: int, inode: int) -> bytes:
    """The first bytes of the file behind the process's mapping of an inode."""
    with ProcessMemory(pid) as process:
        (mapping,) = [each for each in process.mappings() if each.inode == inode]
        file = process.open_file(mapping)
        assert file is not None
        try:
            process.verify()
            return os.pread(file.fd, 5, 0)
        finally:
            os.close(file.fd)


@pytest.mark.long(but="2-nothing")
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("deed", ["nothing", "replace", "delete"])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY])
def test_root_sees_the_file_that_is_mapped(ram: Path, keep: bool, deed: str, flags: int) -> None:
    if os.geteuid() and not keep:
        pytest.skip("needs root: /proc/PID/map_files")
    inode = ram.stat().st_ino
    with mapping_process(ram, keep=keep, flags=flags) as pid:
        if deed != "nothing":
            ram.unlink()
        if deed == "replace":
            ram.write_bytes(b"wrong" + bytes(MIB - 5))
        assert content(pid, inode) == b"right"


@needs_root
@pytest.mark.parametrize("deed", ["nothing", "replace", "delete"])
def test_nobody_sees_it_by_a_descriptor(ram: Path, deed: str) -> None:
    inode = ram.stat().st_ino
    with mapping_process(ram, keep=True) as pid:
        if deed != "nothing":
            ram.unlink()
        if deed == "replace":
            ram.write_bytes(b"wrong" + bytes(MIB - 5))

        def look() -> None:
            assert content(pid, inode) == b"right"

        in_a_child(look)


@needs_root
@pytest.mark.parametrize("deed", ["nothing", "rename", "replace", "delete"])
def test_nobody_without_a_descriptor(ram: Path, deed: str) -> None:
    """The path is tried where it is still the file's, and is never enough."""
    inode = ram.stat().st_ino
    with mapping_process(ram, keep=False) as pid:
        if deed == "rename":
            ram.rename(ram.with_name("elsewhere"))
        elif deed != "nothing":
            ram.unlink()
        if deed in ("rename", "replace"):
            ram.write_bytes(b"wrong" + bytes(MIB - 5))
            ram.chmod(0o666)

        def look() -> None:
            if deed in ("nothing", "rename"):  # /proc/PID/maps follows the file to its new name
                assert content(pid, inode) == b"right"
                return
            with pytest.raises(SourceError, match=r"cannot be known: no descriptor.*map_files"):
                content(pid, inode)

        in_a_child(look)


@needs_root
def test_a_path_of_another_root(ram: Path, tmp_path: Path) -> None:
    """The path in maps leads elsewhere in another mount namespace, or below another root."""
    inode = ram.stat().st_ino
    with mapping_process(ram, keep=False) as pid:

        def look() -> None:
            with ProcessMemory(pid) as process:
                (mapping,) = [each for each in process.mappings() if each.inode == inode]
                other = mapping._replace(path=str(tmp_path))
                with pytest.raises(SourceError, match="no descriptor of the process"):
                    process.open_file(other)

        in_a_child(look)


def test_a_mapping_that_is_exchanged_meanwhile(ram: Path) -> None:
    with mapping_process(ram, keep=True) as pid, ProcessMemory(pid) as process:
        (mapping,) = [each for each in process.mappings() if each.path == str(ram)]
        file = process.open_file(mapping)
        assert file is not None
        os.close(file.fd)
        process.verify()
        process.used.append(mapping._replace(inode=mapping.inode + 1))
        with pytest.raises(SourceError, match="was unmapped or exchanged while it was inspected"):
            process.verify()


def test_numbers_of_files(ram: Path) -> None:
    st = ram.stat()
    mapping = Mapping(0x1000, 0x2000, "rw-s", 0, st.st_dev, st.st_ino, str(ram), False)
    with ram.open("rb") as file, open(__file__, "rb") as other:
        assert is_behind(file.fileno(), mapping)
        assert not is_behind(other.fileno(), mapping)
        assert not is_behind(file.fileno(), mapping._replace(inode=st.st_ino + 1), proves=True)
        assert shown_in_maps(file.fileno()) == (st.st_dev, st.st_ino)
        before = os.stat(ram).st_blocks
        assert shown_in_maps(file.fileno()) is not None
        assert os.stat(ram).st_blocks == before
    null = os.open("/dev/null", os.O_RDONLY)
    assert stat.S_ISCHR(os.fstat(null).st_mode)
    assert shown_in_maps(null) is None
    os.close(null)


def test_kinds_of_file_systems(ram: Path) -> None:
    memfd = os.memfd_create("ram")
    assert file_system_type(os.fstat(memfd).st_dev, "/proc/self") is None
    os.close(memfd)
    assert file_system_type(ram.stat().st_dev, "/proc/self") == "tmpfs"
    assert file_system_type(ram.stat().st_dev, "/proc/0") == "tmpfs"  # by our own mounts
    assert file_system_type(os.stat("/proc").st_dev, "/proc/self") == "proc"
