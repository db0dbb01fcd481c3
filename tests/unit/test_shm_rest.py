"""Whether a file was at rest, as far as the kernel can tell."""

import errno
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecheck.native import _native
from pagecheck.shm import rest
from pagecheck.shm.ram import RamSource, open_source
from pagecheck.shm.rest import Rest

PAGE = 4096
DISK_MAGIC = 0xEF53

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(params=["disk", "tmpfs"])
def path(request: pytest.FixtureRequest, tmp_path: Path, shm_folder: Path) -> Path:
    """A file of one page that nobody has open."""
    path = (tmp_path if request.param == "disk" else shm_folder) / "f"
    path.write_bytes(bytes(PAGE))
    with open_source(path) as source:
        if not source.is_known_file_system:
            pytest.skip(f"needs {tmp_path} on ext4, xfs, btrfs or tmpfs")
    return path


@pytest.fixture
def source(path: Path) -> Iterator[RamSource]:
    with open_source(path) as opened:
        yield opened


def test_a_plain_file(source: RamSource) -> None:
    before = Rest(source)
    assert (before.size, before.end(), before.size_after) == (PAGE, None, PAGE)
    assert Rest(source).end() is None


def test_just_written(path: Path, source: RamSource) -> None:
    """Also within the same tick of the clock."""
    for _ in range(20):
        path.write_bytes(b"x" * PAGE)
        assert Rest(source).end() is None


def test_a_writer_from_the_beginning(path: Path, source: RamSource) -> None:
    with path.open("r+b"):
        watched = Rest(source)
    assert watched.end() == "somebody has it open for writing"


def test_a_writer_at_the_end(path: Path, source: RamSource) -> None:
    watched = Rest(source)
    with path.open("r+b"):
        assert watched.end() == "somebody has it open for writing"


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _write_and_set_times_back(path: Path) -> None:
    before = os.stat(path)
    _write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _map_and_store(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1


def _cut(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("change", [_write, _write_and_set_times_back, _map_and_store, _cut])
def test_a_writer_who_comes_and_goes(
    path: Path, source: RamSource, change: Callable[[Path], None]
) -> None:
    watched = Rest(source)
    change(path)
    why = watched.end()
    assert why is not None
    assert "during the scan" in why


def test_readers_change_nothing(path: Path, source: RamSource) -> None:
    watched = Rest(source)
    assert path.read_bytes() == bytes(PAGE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[0] == 0
    assert watched.end() is None


def test_a_mapping_whose_descriptor_is_closed(path: Path, source: RamSource) -> None:
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    assert Rest(source).end() == "somebody has it open for writing"
    mapped.close()
    assert Rest(source).end() is None


def test_nameless_shared_memory() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, PAGE)
    with open_source(f"fd:{fd}") as source:
        why = Rest(source).end()
    os.close(fd)
    assert why in rest.EVIDENT
    assert "without a name" in why


@pytest.mark.parametrize(
    ("magic", "name"),
    [(0x65735546, "FUSE"), (0x794C7630, "overlayfs"), (0x6969, "NFS"), (0x1234, "0x1234")],
)
def test_file_systems_that_do_not_report_writers(source: RamSource, magic: int, name: str) -> None:
    source.magic = magic
    assert f"file system ({name})" in (Rest(source).end() or "")


def test_a_shared_descriptor(source: RamSource) -> None:
    source.own_description = False
    assert "shared with others" in (Rest(source).end() or "")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (errno.EACCES, "only its owner, or a process with CAP_LEASE"),
        (errno.EINVAL, "does not report"),
    ],
)
def test_a_kernel_that_does_not_say(
    source: RamSource, monkeypatch: pytest.MonkeyPatch, error: int, why: str
) -> None:
    real = rest.fcntl.fcntl

    def refusing(fd: int, command: int, argument: int = 0) -> int:
        if command == rest.fcntl.F_SETLEASE:
            raise OSError(error, os.strerror(error))
        return real(fd, command, argument)

    monkeypatch.setattr(rest.fcntl, "fcntl", refusing)
    assert why in (Rest(source).end() or "")


def test_another_users_file(path: Path) -> None:
    """The real thing: without ownership and without CAP_LEASE."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    os.chmod(path, 0o644)
    ours, theirs = socket.socketpair()
    with open_source(path) as opened, ours, theirs:
        program = (
            "import os, sys\n"
            "from pagecheck.shm.ram import RamSource; from pagecheck.shm.rest import Rest\n"
            "os.setuid(65534)\n"
            "print(Rest(RamSource('f', 'f', int(sys.argv[1]))).end())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(opened.fd)],
            pass_fds=[opened.fd],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "only its owner" in done.stdout


def test_no_watch_is_no_word(
    source: RamSource, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """As with fs.inotify.max_user_instances used up."""

    def refused(_fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(rest._native, "watch_open", refused)
    why = Rest(source).end()
    assert (why is not None) == source.is_shared_memory
    if why is not None:
        assert "cannot be watched for writers: Too many open files" in why


def look(source: RamSource, monkeypatch: pytest.MonkeyPatch, coarse_ns: int) -> str | None:
    monkeypatch.setattr(rest, "_coarse_ns", lambda: coarse_ns)
    monkeypatch.setattr(rest, "_await_tick", lambda _fd: None)
    return Rest(source).end()


def test_times_that_prove_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(PAGE))
    now = time.time_ns()
    with open_source(path) as source:
        monkeypatch.setattr(source, "magic", DISK_MAGIC)
        mtime = os.stat(path).st_mtime_ns
        assert "at the moment" in (look(source, monkeypatch, mtime) or "")
        assert look(source, monkeypatch, mtime + 1) is None
        second = now - now % 10**9
        os.utime(path, ns=(second, second))  # as where only whole seconds are kept
        assert "at the moment" in (look(source, monkeypatch, second + 999_999_999) or "")
        assert look(source, monkeypatch, second + 10**9) is None
        future = now + 10**15
        os.utime(path, ns=(future, future))
        assert look(source, monkeypatch, now) is None


def test_the_watch_itself(path: Path) -> None:
    with path.open("rb") as file:
        watch = _native.watch_open(file.fileno())
    try:
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        with path.open("r+b"):
            pass
        assert len(os.read(watch, 4096)) == 16
    finally:
        os.close(watch)
    with pytest.raises(OSError, match="No such file"):
        _native.watch_open(1 << 20)


def test_looking_changes_nothing(path: Path, source: RamSource) -> None:
    before = os.stat(path)
    Rest(source).end()
    assert os.stat(path) == before
    assert os.stat(path).st_blocks == before.st_blocks
