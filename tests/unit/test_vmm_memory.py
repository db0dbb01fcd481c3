"""Other processes' memory, and the files behind their mappings: the right file, or none."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError, SourceError
from pagecheck.vmm.process import access
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import ProcessMemory, is_shared_memory
from tests.support.limits import no_descriptor
from tests.support.users import as_nobody, in_a_child

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20


@contextlib.contextmanager
def mapped(fd: int, size: int) -> Iterator[None]:
    """This process maps the file, shared and writable."""
    with mmap.mmap(fd, size):
        yield


def mapping_of(process: ProcessMemory, inode: int) -> Mapping:
    (found,) = [each for each in process.mappings() if each.inode == inode]
    return found


def test_a_memfd_with_a_strange_name() -> None:
    fd = os.memfd_create("a b\n (deleted)")
    os.ftruncate(fd, MIB)
    inode = os.fstat(fd).st_ino
    with ProcessMemory(os.getpid()) as process, mapped(fd, MIB):
        mapping = mapping_of(process, inode)
        assert mapping.path == "/memfd:a b\n (deleted)"
        file = process.open_file(mapping)
        assert file is not None
        assert file.own_description
        assert os.fstat(file.fd).st_ino == inode
        assert fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert is_shared_memory(file.fd)
        os.close(file.fd)
    os.close(fd)


def closed_mapping(path: Path) -> tuple[mmap.mmap, int]:
    """A mapping whose file nobody holds a descriptor of: Python's mmap would keep one."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDWR)
    inode = os.fstat(fd).st_ino
    address = libc.mmap(None, MIB, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    return address, inode


def unmap(address: int) -> None:
    assert ctypes.CDLL(None).munmap(ctypes.c_void_p(address), ctypes.c_size_t(MIB)) == 0


def test_a_file_that_is_mapped_but_not_open(shm_folder: Path) -> None:
    address, inode = closed_mapping(shm_folder / "ram")
    with ProcessMemory(os.getpid()) as process:
        file = process.open_file(mapping_of(process, inode))
        assert file is not None
        assert os.fstat(file.fd).st_ino == inode
        os.close(file.fd)
    unmap(address)


def test_a_file_that_was_exchanged_is_never_taken(shm_folder: Path) -> None:
    address, inode = closed_mapping(shm_folder / "ram")
    with ProcessMemory(os.getpid()) as process:
        mapping = mapping_of(process, inode)
        unmap(address)  # so that not even root has a way
        os.rename(shm_folder / "ram", shm_folder / "old")
        (shm_folder / "ram").write_bytes(bytes(MIB))
        with pytest.raises(SourceError, match="cannot be opened"):
            process.open_file(mapping)


def test_a_device_is_no_file() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    st = os.fstat(fd)
    device = Mapping(0x1000, 0x2000, "rw-s", 0, st.st_dev, st.st_ino, "/dev/null", False)
    with ProcessMemory(os.getpid()) as process:
        assert process.open_file(device) is None
    os.close(fd)


def test_what_is_shared_memory(tmp_path: Path, shm_folder: Path) -> None:
    on_disk = os.open(__file__, os.O_RDONLY)
    on_tmpfs = os.open(shm_folder, os.O_RDONLY | os.O_DIRECTORY)
    (shm_folder / "file").touch()
    file = os.open(shm_folder / "file", os.O_RDONLY)
    assert [is_shared_memory(fd) for fd in (on_disk, on_tmpfs, file)] == [False, False, True]
    for fd in (on_disk, on_tmpfs, file):
        os.close(fd)


def test_a_process_that_is_not_there() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (ended.pid, 0, 1 << 40):
        with pytest.raises(SourceError, match="no such process"):
            ProcessMemory(pid)


def test_a_process_that_ends_meanwhile() -> None:
    running = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with running, ProcessMemory(running.pid) as process:
        process.mappings()
        process.verify()
        running.kill()
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SourceError, match="ended"):
            process.verify()
        with pytest.raises(SourceError, match=r"ended|maps no memory"):
            process.mappings()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's process to look at")
def test_a_process_of_somebody_else() -> None:
    target = os.getpid()

    def look() -> None:
        with (
            ProcessMemory(target) as process,
            pytest.raises(
                SourceError, match=r"not permitted: it runs as uid 0, pagecheck as uid 65534; run"
            ),
        ):
            process.mappings()

    in_a_child(look)


def test_a_file_whose_mode_forbids_everything() -> None:
    """QEMU 9.1's shm backend: only a copy of the descriptor leads to it."""
    ready, said = os.pipe()
    target = os.fork()
    if target == 0:
        as_nobody()
        fd = os.memfd_create("forbidden")
        os.ftruncate(fd, MIB)
        os.fchmod(fd, 0)
        memory = mmap.mmap(fd, MIB)
        memory[:4] = b"here"
        os.write(said, os.fstat(fd).st_ino.to_bytes(8, "little"))
        signal.pause()
        os._exit(0)
    inode = int.from_bytes(os.read(ready, 8), "little")

    def look() -> None:
        with ProcessMemory(target) as process:
            file = process.open_file(mapping_of(process, inode))
            assert file is not None
            assert not file.own_description
            assert os.fstat(file.fd).st_ino == inode
            assert os.pread(file.fd, 4, 0) == b"here"

    try:
        in_a_child(look)
    finally:
        os.kill(target, signal.SIGKILL)
        os.waitpid(target, 0)
        os.close(ready)
        os.close(said)


def test_a_thread_s_number() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", THREAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        thread = int(process.stdout.readline())
        wanted = f"pid:{thread}: is a thread of process {process.pid}; give pid:{process.pid}"
        with pytest.raises(SourceError, match=wanted):
            ProcessMemory(thread)
        process.stdin.close()


THREAD = """
import sys, threading
def run():
    print(threading.get_native_id(), flush=True)
    sys.stdin.read()
threading.Thread(target=run).start()
"""


@pytest.mark.parametrize(
    ("pending", "flags", "killed"),
    [
        ((0, 0), 0x400040, False),
        ((0x4000, 0x4000), 0x400040, False),  # another signal
        ((0x100, 0), 0x400040, True),
        ((0, 0x100), 0x400040, True),  # on its way out, its flags are to come
        ((0, 0), 0x400044, True),
    ],
)
def test_a_process_that_is_being_killed(
    tmp_path: Path, pending: tuple[int, int], flags: int, killed: bool
) -> None:
    """The files of a process that the kernel takes memory away from, which takes a short while."""
    own, shared = pending
    (tmp_path / "status").write_text(f"Name:\tq\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n")
    (tmp_path / "stat").write_text(f"7 (a) b) R 1 7 7 0 -1 {flags} 0 0\n")
    with ProcessMemory(os.getpid()) as process:
        process.require_whole()
        process.folder = str(tmp_path)
        if not killed:
            process.require_whole()
            return
        with pytest.raises(SourceError, match="is being killed"):
            process.require_whole()


def test_a_state_that_no_descriptor_is_left_for() -> None:
    """That says nothing of the process."""
    with (
        ProcessMemory(os.getpid()) as process,
        no_descriptor(),
        pytest.raises(ResourceError, match="its state cannot be read: this"),
    ):
        process.require_whole()


def test_memory_whose_system_call_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's seccomp profile does; its pages would all be undecided."""
    with ProcessMemory(os.getpid()) as process:
        for fd in process.open_memory():
            os.close(fd)
        monkeypatch.setattr(access, "_errno_of_read", lambda _pid: errno.EPERM)
        with pytest.raises(SourceError, match=r"process_vm_readv is forbidden .*; allow it in the"):
            process.open_memory()
