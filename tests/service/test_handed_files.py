"""Files that a client hands over to be written: on which file systems, and of whose memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import UsageError
from pagecheck.service.handed import require_files
from tests.support.file_systems import mounted
from tests.support.stalling_fs import stalling_fs
from tests.support.users import needs_root

SIZE = 8192


@pytest.fixture
def disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/var/tmp") as name:
        yield Path(name)


def new_file(path: Path, size: int = SIZE) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    return fd


def refusal(fd: int, *, trusted: bool, process: int = 0) -> str:
    """What a file is refused for; "" where it is taken."""
    try:
        require_files([fd], [SIZE], process, trusted=trusted)
    except UsageError as error:
        return str(error)
    finally:
        os.close(fd)
    return ""


@pytest.mark.parametrize("trusted", [False, True])
def test_of_a_disk(disk: Path, *, trusted: bool) -> None:
    assert refusal(new_file(disk / "ram"), trusted=trusted) == ""


@needs_root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_of_file_systems_of_disks(tmp_path: Path, kind: str) -> None:
    size = {"ext4": "16M", "xfs": "320M", "btrfs": "128M"}[kind]
    with mounted(tmp_path, kind, size) as at:
        assert refusal(new_file(at / "ram"), trusted=False) == ""


@needs_root
def test_of_memory(tmp_path: Path) -> None:
    """tmpfs: the service would pay for another user's."""
    with mounted(tmp_path, "tmpfs", "1M") as at:
        told = refusal(new_file(at / "ram"), trusted=False)
        assert told == (
            "file 0: is on tmpfs, whose memory the service would pay for; give a file of a disk"
        )
        assert refusal(new_file(at / "ram"), trusted=True) == ""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    assert "is on no mount of the service or of the client" in refusal(fd, trusted=False)


@pytest.mark.parametrize("trusted", [False, True])
def test_of_a_file_system_that_does_not_answer(*, trusted: bool) -> None:
    """It is asked nothing, and named where the client's mount table has it."""
    with stalling_fs() as running:
        seen, unseen = (os.open(running.path, os.O_RDWR) for _ in range(2))
        running.stall("GETATTR")
        told = refusal(unseen, trusted=trusted)
        assert "is on no mount of the service or of the client" in told
        told = refusal(seen, trusted=trusted, process=running.pid)
        assert "which may never answer; give a file of a disk" in told
        running.end()


def test_one_file_for_two_blocks(disk: Path) -> None:
    one = new_file(disk / "ram")
    other = os.open(disk / "ram", os.O_RDWR)
    try:
        with pytest.raises(UsageError, match="file 1: is the same file as file 0"):
            require_files([one, other], [SIZE, SIZE], 0, trusted=False)
    finally:
        os.close(one)
        os.close(other)
