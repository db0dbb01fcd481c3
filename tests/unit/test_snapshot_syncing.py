"""Files that are synced beside other work: what the disk says is not lost."""

import errno
import os
from pathlib import Path

import pytest

from pagecheck.snapshot.syncing import Syncing

pytestmark = pytest.mark.usefixtures("clean")


def test_they_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "pagecheck.snapshot.syncing.sync", lambda fd: seen.append(os.fstat(fd).st_ino)
    )
    paths = [tmp_path / "a", tmp_path / "b"]
    files = [path.open("wb") for path in paths]
    syncing = Syncing([file.fileno() for file in files])
    for file in files:
        file.close()
    syncing.wait()
    assert seen == [path.stat().st_ino for path in paths]


def test_an_error_is_raised_by_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("pagecheck.snapshot.syncing.sync", fail)
    with (tmp_path / "a").open("wb") as file, pytest.raises(OSError, match="Input/output error"):
        Syncing([file.fileno()]).wait()
