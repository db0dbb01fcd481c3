"""What the host forbids or limits: one line that names it, and never "a bug in pagecheck"."""

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pagecheck as package
from tests.support.command import assert_fails, limited, pagecheck
from tests.support.snapshots import make_snapshot, some_ram


@pytest.mark.parametrize("descriptors", [7, 9, 12, 14])
def test_descriptors(ram: Path, descriptors: int):
    few = limited(resource.RLIMIT_NOFILE, descriptors)
    done = pagecheck("scan", "--channels", "2", ram, preexec_fn=few)
    assert_fails(done, 4, "ulimit -n", f"may have {descriptors} open files")


@pytest.mark.parametrize("size", [0, 1024, 65536])
def test_file_size(ram: Path, size: int):
    short = limited(resource.RLIMIT_FSIZE, size)
    done = pagecheck("scan", "--channels", "1", ram, preexec_fn=short)
    assert_fails(done, 4, "ulimit -f", f"up to {size} bytes")


def forbidding(call: int, number: int) -> Callable[[], None]:
    """Installs a filter under which that system call fails with that error number."""
    lines = (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, call),
        (6, 0, 0, 0x50000 | number),
        (6, 0, 0, 0x7FFF0000),
    )
    code = b"".join(struct.pack("HBBI", *line) for line in lines)

    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("code", ctypes.c_char_p))

    libc = ctypes.CDLL(None)

    def install() -> None:
        libc.prctl(38, 1, 0, 0, 0)
        if libc.prctl(22, 2, ctypes.byref(Program(4, code)), 0, 0):
            os._exit(99)

    return install


CALLS = {"pidfd_open": 434, "memfd_create": 319, "socketpair": 53}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("number", [1, 38], ids=["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", CALLS)
def test_forbidden_call(ram: Path, call: str, number: int):
    done = pagecheck("scan", "--channels", "1", ram, preexec_fn=forbidding(CALLS[call], number))
    if done.returncode == 99:
        pytest.skip("no seccomp filter can be installed here")
    assert_fails(done, 3, f"system call {call}", "seccomp")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_forbidden_call_that_nobody_expects(ram: Path):
    def both() -> None:  # poll; and ppoll, which Python 3.15 calls
        forbidding(7, 38)()
        forbidding(271, 38)()

    done = pagecheck("scan", "--channels", "1", ram, preexec_fn=both)
    if done.returncode == 99:
        pytest.skip("no seccomp filter can be installed here")
    assert_fails(done, 3, "a system call", "seccomp")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("number", [1, 38], ids=["EPERM", "ENOSYS"])
def test_a_forbidden_question_for_the_user_leaves_no_name(ram: Path, number: int):
    """geteuid() then answers with the error number, and whose the names are is not known."""
    prefix = f"pagecheck-{-1 if number == 1 else 2**32 - number}-"
    done = pagecheck("scan", "--channels", "1", ram, preexec_fn=forbidding(107, number))
    if done.returncode == 99:
        pytest.skip("no seccomp filter can be installed here")
    assert done.returncode == 0, done.stderr
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of our own with a limit on processes and threads."""
    for mount in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        path = Path(mount) / f"pagecheck-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            path.mkdir()
            if (path / "pids.max").exists():
                break
            path.rmdir()
    else:
        pytest.skip("no cgroup with pids.max can be made here: needs root and the pids controller")
    try:
        yield path
    finally:
        path.rmdir()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_processes_and_threads(ram: Path, group: Path, most: int):
    (group / "pids.max").write_text(str(most))

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    done = pagecheck("scan", "--channels", "2", ram, preexec_fn=enter)
    if most < 3:
        assert_fails(done, 4, f"allows {most} ", str(group / "pids.max"))
    else:  # there are both workers, and no thread is needed
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long(but="save")
@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("what", ["save", "verify", "restore", "onto", "punch"])
def test_processes_and_threads_of_a_snapshot(tmp_path: Path, group: Path, what: str, most: int):
    """It is done with what there is, or nothing is."""
    content = some_ram(600)
    saved, ram, out = tmp_path / "saved", tmp_path / "ram", tmp_path / "out"
    make_snapshot(saved, {"pc.ram": content})
    old = content if what in ("save", "punch") else b"y" * len(content)
    ram.write_bytes(old)
    arguments = {
        "save": ["save", "--channels", "2", ram, out],
        "verify": ["verify", saved],
        "restore": ["restore", "--ram", out, saved],
        "onto": ["restore", "--channels", "2", "--onto", "--ram", ram, saved],
        "punch": ["punch", ram],
    }[what]
    (group / "pids.max").write_text(str(most))

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    done = pagecheck(*arguments, preexec_fn=enter)
    if done.returncode != 0:
        assert_fails(done, 4, f"allows {most} ", str(group / "pids.max"))
        assert not out.exists()
        assert ram.read_bytes() == old
        assert not list(tmp_path.glob(".pagecheck-*"))
    elif what == "save":
        package.verify(out)
    else:
        there = {"verify": saved / "pc.ram.ram", "restore": out}.get(what, ram)
        assert there.read_bytes() == content
