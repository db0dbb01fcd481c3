"""A snapshot's directory appears whole, private, and never in the place of something else."""

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

import pytest

from pagecheck.errors import OutputError
from pagecheck.report import publish
from pagecheck.snapshot import directory
from pagecheck.snapshot.directory import MARKER, MARKER_TEXT, NewDirectory
from pagecheck.snapshot.outside import require_outside
from pagecheck.snapshot.verify import verify
from tests.support.snapshots import make_snapshot


def save(path: Path, content: bytes = b"ram") -> None:
    with NewDirectory(path) as new:
        new.write("a.ram", content)
        fd = new.create("state")
        os.write(fd, b"state")
        os.close(fd)
        new.finish()


def leftover(folder: Path, name: str = ".old.pagecheck-17-0123456789abcdef") -> Path:
    """What a killed save leaves."""
    path = folder / name
    path.mkdir(0o700)
    for each, text in ((MARKER, MARKER_TEXT), ("a.ram", b"secret"), ("manifest.json", b"{")):
        (path / each).write_bytes(text)
        (path / each).chmod(0o600)
    return path


@pytest.mark.parametrize("umask", [0o022, 0, 0o777])
def test_it_is_whole_and_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save(tmp_path / "snap")
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["snap"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "snap").iterdir()} == {
        "a.ram": b"ram",
        "state": b"state",
    }
    assert stat.S_IMODE((tmp_path / "snap").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "snap").iterdir()} == {0o600}


def test_a_relative_name_with_a_slash_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with NewDirectory("snap/") as new:
        assert os.path.isdir(new.temporary)
        new.finish()
    assert os.listdir(tmp_path) == ["snap"]


def test_none_is_made_in_another(tmp_path: Path) -> None:
    """That would not verify any more."""
    make_snapshot(tmp_path / "snap", {"ram": bytes(4096)})
    (tmp_path / "link").symlink_to("snap")
    for name in ("snap", "link"):
        with pytest.raises(OutputError, match="second: is in the directory of a snapshot"):
            save(tmp_path / name / "second")
    verify(tmp_path / "snap")
    for inside in ("snap/x", "snap/folder/that/is/new", "link/x", "link/../snap/x"):
        with pytest.raises(OutputError, match="is in the directory of a snapshot, which must"):
            require_outside(str(tmp_path / inside), tmp_path / "snap")
    for outside in ("x", "snap2/x", "nowhere/snap/x"):
        require_outside(str(tmp_path / outside), tmp_path / "snap")
        require_outside(str(tmp_path / outside), tmp_path / "missing")


@pytest.mark.parametrize("path", ["", "/", ".", "a/..", "x" * 230, "a\0b"])
def test_paths_that_name_no_new_directory(path: str) -> None:
    with pytest.raises(OutputError), NewDirectory(path):
        raise AssertionError


def test_without_finish_nothing_is_left(tmp_path: Path) -> None:
    with NewDirectory(tmp_path / "snap") as new:
        new.write("a.ram", b"x")
    new = NewDirectory(tmp_path / "snap")
    new.__enter__().write("a.ram", b"x")
    new.__exit__(KeyError, KeyError(), None)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_a_file_is_created_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_file = NewDirectory._new_file

    def interrupted(new: NewDirectory, name: str) -> int:
        fd = new_file(new, name)
        if name != MARKER:
            signal.raise_signal(signal.SIGINT)
        return fd

    monkeypatch.setattr(NewDirectory, "_new_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "snap")
    assert os.listdir(tmp_path) == []


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    save(tmp_path / "snap")
    with pytest.raises(OutputError):
        save(tmp_path / "snap")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_has_the_name_stays(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "snap"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_bytes(b"mine")
    else:
        place.symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists, and is left as it is"):
        save(place)
    assert os.listdir(tmp_path) == ["snap"]


@pytest.mark.parametrize("way", ["no replace", "fallback"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_gets_the_name_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    def missing(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "not on this file system")

    if way == "fallback":
        monkeypatch.setattr(publish, "_rename_no_replace", missing)
    place = tmp_path / "snap"
    with NewDirectory(place) as new:
        if kind == "folder":
            place.mkdir()
        else:
            place.write_bytes(b"mine")
        number = place.stat().st_ino
        with pytest.raises(OutputError, match="was created meanwhile"):
            new.finish()
    assert os.listdir(tmp_path) == ["snap"]
    assert place.stat().st_ino == number


def test_a_file_system_without_a_rename_that_never_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "not on this file system")

    monkeypatch.setattr(publish, "_rename_no_replace", missing)
    save(tmp_path / "snap")
    assert os.listdir(tmp_path) == ["snap"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/snap: .* there is no folder /.*/nowhere$"):
        save(tmp_path / "nowhere" / "snap")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with NewDirectory(tmp_path / "snap") as new:
        new.write("a.ram", b"x")
        monkeypatch.setattr(publish.os, "fsync", full)
        with pytest.raises(OutputError, match=r"snap/a\.ram: cannot be written: No space left"):
            new.finish()
    assert os.listdir(tmp_path) == []


def test_what_is_not_synced_is_not_removed_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of that would leave half a snapshot there."""
    final, there, unlink = tmp_path / "snap", [], os.unlink

    def failing(_fd: int) -> None:
        if final.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def watched(name: str, *, dir_fd: int) -> None:
        there.append(final.exists())
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(directory, "sync", failing)
    monkeypatch.setattr(directory.os, "unlink", watched)
    with pytest.raises(OutputError, match="snap: cannot be written: Input/output error"):
        save(final)
    assert there == [False] * 3
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed(tmp_path: Path) -> None:
    leftover(tmp_path)
    leftover(tmp_path, ".snap.pagecheck-1-ffffffffffffffff")
    (tmp_path / ".x.pagecheck-9-0000000000000000").mkdir(0o700)  # killed before its marker
    half = leftover(tmp_path, ".y.pagecheck-9-0000000000000000")
    (half / MARKER).write_bytes(b"")
    save(tmp_path / "snap")
    assert os.listdir(tmp_path) == ["snap"]


@pytest.mark.parametrize(
    "change",
    [
        "living", "other name", "short number", "no marker", "other marker", "linked marker",
        "open to others", "of another user", "marker of another user", "a link", "a file",
    ],
)  # fmt: skip
def test_what_is_not_ours_or_lives_stays(tmp_path: Path, change: str) -> None:
    if "another user" in change and os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    names = {"other name": ".a.pagecheck", "short number": ".a.pagecheck-1-0123"}
    path = leftover(tmp_path, names.get(change, ".a.pagecheck-1-0123456789abcdef"))
    held = os.open(path / MARKER, os.O_RDWR)
    if change == "living":
        fcntl.flock(held, fcntl.LOCK_EX)
    elif change == "no marker":
        (path / MARKER).unlink()
    elif change == "other marker":
        (path / MARKER).write_bytes(MARKER_TEXT + b"x")
    elif change == "linked marker":
        (path / MARKER).rename(tmp_path / "marker")
        (path / MARKER).symlink_to(tmp_path / "marker")
    elif change == "open to others":
        path.chmod(0o750)
    elif change == "of another user":
        os.chown(path, 4711, 4711)
    elif change == "marker of another user":
        os.chown(path / MARKER, 4711, 4711)
    elif change == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif change == "a file":
        path.rename(tmp_path / "elsewhere")
        path.write_bytes(b"")
    before = sorted(os.listdir(path)) if path.is_dir() else None
    save(tmp_path / "snap")
    os.close(held)
    assert (sorted(os.listdir(path)) if path.is_dir() else None) == before
    assert os.path.lexists(path)


def test_what_others_put_into_a_leftover_stays(tmp_path: Path) -> None:
    path = leftover(tmp_path)
    (path / ".theirs").write_bytes(b"x")
    (path / "folder").mkdir()
    save(tmp_path / "snap")
    assert {".theirs", "folder"} <= set(os.listdir(path))


def test_two_saves_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    with NewDirectory(tmp_path / "a") as first, NewDirectory(tmp_path / "b") as second:
        first.write("x", b"1")
        second.write("x", b"2")
        with NewDirectory(tmp_path / "c"):
            first.finish()
            second.finish()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("moment", ["before its marker", "before its lock"])
def test_a_directory_that_another_save_took_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    real, taken = os.chmod, []
    lock = fcntl.flock

    def chmod(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        take()

    def flock(fd: int, operation: int) -> None:
        take()
        lock(fd, operation)

    def take() -> None:
        if not taken:
            taken.append(1)
            folder = os.open(tmp_path, os.O_RDONLY)
            assert len(directory.remove_leftovers(folder)) == 1
            os.close(folder)

    if moment == "before its marker":
        monkeypatch.setattr(directory.os, "chmod", chmod)
    else:
        monkeypatch.setattr(directory.fcntl, "flock", flock)
    save(tmp_path / "snap")
    assert taken
    assert os.listdir(tmp_path) == ["snap"]
