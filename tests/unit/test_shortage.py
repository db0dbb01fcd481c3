"""Every shortage says which limit was reached; what is no shortage is not taken for one."""

import errno
import os
import resource
from pathlib import Path

import pytest

from pagecheck import shortage
from pagecheck.errors import EngineError, ResourceError
from pagecheck.shortage import errno_of, explain, is_forbidden, refused


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, ("open files", "ulimit -n")),
        (errno.ENFILE, ("fs.file-max",)),
        (errno.EAGAIN, ("processes or threads",)),
        (errno.ENOMEM, ("memory",)),
        (errno.ENOSPC, ("No space left",)),
        (errno.EDQUOT, ("quota",)),
    ],
)
def test_a_shortage_is_a_resource_error(number: int, words: tuple[str, ...]) -> None:
    error = refused("cannot do it", OSError(number, "x"), "openat")
    assert type(error) is ResourceError
    assert str(error).startswith("cannot do it: ")
    assert all(word in str(error) for word in words)


def test_a_file_size_limit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {resource.RLIMIT_FSIZE: (4096, 8192)}
    monkeypatch.setattr(shortage.resource, "getrlimit", limit.__getitem__)
    assert "4096 bytes" in str(explain(OSError(errno.EFBIG, "x")))
    limit[resource.RLIMIT_FSIZE] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert "file system" in str(explain(OSError(errno.EFBIG, "x")))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_forbidden_call_is_named(number: int) -> None:
    error = refused("cannot start", OSError(number, "x"), "pidfd_open")
    assert type(error) is EngineError
    assert "system call pidfd_open" in str(error)
    assert "seccomp" in str(error)


def test_what_is_no_shortage_keeps_its_own_words() -> None:
    error = refused("cannot start", OSError(errno.ENOENT, "x"), "execve")
    assert type(error) is EngineError
    assert str(error) == "cannot start: No such file or directory"
    assert explain(OSError(errno.ENOENT, "x")) is None
    assert explain(ValueError("x")) is None


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (RuntimeError("another"), 0),
        (MemoryError(), errno.ENOMEM),
        (ImportError(f"libx.so: cannot open: {os.strerror(errno.EMFILE)}"), errno.EMFILE),
        (ImportError("x.so: failed to map segment from shared object"), errno.ENOMEM),
        (ImportError("No module named 'x'"), 0),
        (OSError("no number"), 0),
    ],
)
def test_errors_that_stand_for_a_number(error: Exception, number: int) -> None:
    assert errno_of(error) == number


def test_only_an_error_about_no_file_is_a_forbidden_call() -> None:
    assert is_forbidden(OSError(errno.ENOSYS, "x"))
    assert not is_forbidden(OSError(errno.EPERM, "x", "/etc/shadow"))
    assert not is_forbidden(OSError(errno.EIO, "x"))


@pytest.mark.parametrize("version", [1, 2])
def test_the_full_cgroup_is_found(tmp_path: Path, version: int) -> None:
    mount = tmp_path / "pids" if version == 1 else tmp_path
    for name, most, there in (("a/b", "max", 3), ("a", "8", 8), ("", "100", 20)):
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "pids.max").write_text(f"{most}\n")
        (mount / name / "pids.current").write_text(f"{there}\n")
    (tmp_path / "cgroup").write_text("3:cpu,pids:/a/b\n" if version == 1 else "0::/a/b\n")
    found = shortage._full_cgroup(str(tmp_path / "cgroup"), str(tmp_path))
    assert found is not None
    assert f"allows 8 ({mount}/a/pids.max" in found


def test_no_cgroup_is_full(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/a\n3:cpu:/b\nnonsense\n")
    assert shortage._full_cgroup(str(tmp_path / "cgroup"), str(tmp_path)) is None
    assert shortage._full_cgroup(str(tmp_path / "none"), str(tmp_path)) is None
