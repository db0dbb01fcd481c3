"""A worker that writes in the place of another user has no right of root's over a file system."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pagecheck.errors import EngineError
from pagecheck.workers.writer import CAP_SYS_RESOURCE, write_as
from tests.support.file_systems import mounted
from tests.support.users import NOBODY, in_a_child, in_a_fork, needs_root

pytestmark = needs_root

CAP_SYS_PTRACE = 19


def status() -> dict[str, str]:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("uid", [NOBODY, (1 << 31) - 1, (1 << 31) + 1, (1 << 32) - 2])
def test_what_is_left(uid: int) -> None:
    def work() -> None:
        before = int(status()["CapEff"], 16)
        write_as(uid, uid - 1)
        after = status()
        assert [after[name].split() for name in ("Uid", "Gid")] == [
            ["0", "0", "0", str(uid)],
            ["0", "0", "0", str(uid - 1)],
        ]
        effective = int(after["CapEff"], 16)
        assert not effective & (1 << CAP_SYS_RESOURCE)
        assert effective & (1 << CAP_SYS_PTRACE) == before & (1 << CAP_SYS_PTRACE)

    in_a_fork(work)


def test_a_set_user_id_bit_goes(tmp_path: Path) -> None:
    """As it does where that user writes; root leaves it."""
    path = tmp_path / "program"
    path.touch()

    def work() -> None:
        fd = os.open(path, os.O_WRONLY)
        for writes_as, left in ((None, stat.S_ISUID), (NOBODY, 0)):
            path.chmod(0o4777)
            if writes_as is not None:
                write_as(writes_as, writes_as)
            os.write(fd, b"x")
            assert os.fstat(fd).st_mode & stat.S_ISUID == left

    in_a_fork(work)


def test_space_that_is_kept_for_root(tmp_path: Path) -> None:
    """It is left alone; quotas go by the same two things."""
    with mounted(tmp_path, "ext4", "32M", "-m", "50") as at:
        (at / "ram").touch()

        def work() -> None:
            fd = os.open(at / "ram", os.O_RDWR)
            free = os.statvfs(at)
            size = free.f_bavail * free.f_frsize
            assert size < free.f_bfree * free.f_frsize - (8 << 20)
            os.posix_fallocate(fd, 0, size + (1 << 20))  # root may
            os.ftruncate(fd, 0)
            write_as(NOBODY, NOBODY)
            with pytest.raises(OSError, match="No space left"):
                os.posix_fallocate(fd, 0, size + (1 << 20))
            os.close(fd)

        in_a_fork(work)


def test_a_program_without_the_right() -> None:
    def work() -> None:
        with pytest.raises(EngineError, match="cannot write as user 0 and group 0"):
            write_as(0, 0)

    in_a_child(work)
