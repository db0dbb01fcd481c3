"""A save that is interrupted anywhere leaves a whole snapshot under the final name, or none; the
one before is untouched, and what is left is removed by the next one."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import OutputError
from pagecheck.report import publish
from pagecheck.snapshot.directory import MARKER, NewDirectory
from pagecheck.snapshot.verify import verify
from tests.snapshot import operations
from tests.support.snapshots import make_snapshot, some_ram

FILES = ("a.ram", "a.zero", "state")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an older snapshot in it."""
    make_snapshot(tmp_path / "old", {"pc.ram": some_ram(20)})
    return tmp_path


def save(path: Path) -> None:
    with NewDirectory(path) as new:
        for name in FILES:
            new.write(name, name.encode())
        new.finish()


def broken(folder: Path, log: list[operations.Operation], final: str) -> list[str]:
    """What is wrong with the final name after a power cut, if anything is, at any point."""
    inode = folder.stat().st_ino
    wrong = []
    for disk in operations.after_power_cuts(log):
        made = disk.entries.get(inode, {}).get(final)
        if made is None:
            continue
        entries = disk.entries.get(made, {})
        wrong += [f"{name} is missing" for name in FILES if name not in entries]
        wrong += [
            f"{name} is not synced"
            for name, each in entries.items()
            if name in FILES and each not in disk.synced
        ]
        wrong += [f"{name} is there" for name in entries.keys() - {*FILES, MARKER}]
    return sorted(set(wrong))


def recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None] = save
) -> list[operations.Operation]:
    with monkeypatch.context() as patched:
        patched.setattr(operations, "watched", [folder])
        recorder = operations.Recorder(patched)
        make(folder / "new")
    return recorder.log


def test_a_power_cut_leaves_it_whole_or_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = recorded(folder, monkeypatch)
    assert sum(each.kind == "sync" for each in log) == len(FILES) + 2
    assert broken(folder, log, "new") == []


@pytest.mark.parametrize("left_out", ["a file's", "the directory's"])
def test_without_a_sync_it_would_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """The replay finds what it is there to find."""
    log = recorded(folder, monkeypatch)
    syncs = [at for at, each in enumerate(log) if each.kind == "sync"]
    del log[syncs[1] if left_out == "a file's" else syncs[-2]]
    assert broken(folder, log, "new") != []


def test_after_it_was_finished_it_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded(folder, monkeypatch)
    inode = folder.stat().st_ino
    whole = [each.kind for each in log].index("sync") + len(FILES)
    last = len(log) - [each.kind for each in reversed(log)].index("sync")
    assert log[last - 1].inode == inode
    assert log[last - 2].old.startswith(".new.pagecheck-")
    assert whole < last
    ends = list(operations.after_power_cuts(log))[-2:]
    assert all("new" in disk.entries[inode] for disk in ends)


class Killed:
    """Ends the process, as kill -9 does, before the operation of a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self._left = number
        operations.wrap(monkeypatch, self._around)

    def _around(self, _name: str, do: Callable[[], Any], _arguments: tuple[Any, ...]) -> Any:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        return do()


def killed_at(number: int, path: Path) -> bool:
    """Whether a process that saves was killed before its operation of that number."""
    pid = os.fork()
    if pid == 0:
        try:
            with pytest.MonkeyPatch.context() as patched:
                Killed(patched, number)
                make_snapshot(path, {"pc.ram": some_ram(20, 2)})
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_killed_at_every_step(folder: Path) -> None:
    number = names = 0
    while killed_at(number, folder / "new"):
        if os.path.lexists(folder / "new"):
            verify(folder / "new")
            names += 1
        verify(folder / "old")
        save(folder / "next")
        there = {"old", "next", "new"} & set(os.listdir(folder))
        assert set(os.listdir(folder)) == there
        for each in there - {"old"}:
            for name in os.listdir(folder / each):
                os.unlink(folder / each / name)
            os.rmdir(folder / each)
        number += 1
    assert number > 30
    assert names >= 2  # killed before the folder was synced, and before the marker was removed


class Failing:
    """An error of the operating system at the operation of a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, error: int) -> None:
        self.failed = ""
        self._left = number
        self._error = error
        operations.wrap(monkeypatch, self._around)

    def _around(self, name: str, do: Callable[[], Any], _arguments: tuple[Any, ...]) -> Any:
        self._left -= 1
        if self._left == -1:
            self.failed = name
            raise OSError(self._error, os.strerror(self._error))
        return do()


def refused(path: Path) -> str | None:
    """What is said of a save that fails; None of one that does not."""
    try:
        save(path)
    except OutputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_at_every_step(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    failed = set()
    for number in range(1000):
        with monkeypatch.context() as patched:
            failing = Failing(patched, number, error)
            text = refused(folder / "new")
        if not failing.failed:
            break
        assert text is None or f"cannot be written: {os.strerror(error)}" in text
        failed.add(failing.failed)
        left = set(os.listdir(folder)) - {"old"}
        assert left == set() or failing.failed in ("unlink", "rmdir")
        assert len(os.listdir("/proc/self/fd")) == descriptors
        verify(folder / "old")
    assert failed >= {"mkdir", "open", "chmod", "fchmod", "write", "fsync", "rename", "unlink"}
    assert set(os.listdir(folder)) == {"old", "new"}


def test_a_real_disk_that_is_full(tmp_path: Path) -> None:
    from tests.support.file_systems import mounted

    with mounted(tmp_path, "tmpfs", "1m") as full:
        make_snapshot(full / "old", {"ram": some_ram(20)})
        with NewDirectory(full / "new") as new:
            new.write("a.ram", bytes(100_000))
            with pytest.raises(OutputError, match=r"new/b\.ram: cannot be written: No space left"):
                new.write("b.ram", bytes(1 << 20))
        assert os.listdir(full) == ["old"]
        verify(full / "old")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_file_systems(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.file_systems import mounted

    sizes = {"xfs": "320m", "btrfs": "128m"}
    with mounted(tmp_path, kind, sizes.get(kind, "32m")) as at:
        make_snapshot(at / "a", {"ram": some_ram(2000)})
        verify(at / "a")

        def missing(*_arguments: object) -> None:
            raise OSError(errno.EINVAL, "not known here")

        monkeypatch.setattr(publish, "_rename_no_replace", missing)
        make_snapshot(at / "b", {"ram": some_ram(2000)})
        verify(at / "b")
        with pytest.raises(OutputError, match="exists, and is left as it is"):
            make_snapshot(at / "b", {"ram": some_ram(10)})
