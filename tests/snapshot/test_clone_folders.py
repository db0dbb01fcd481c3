"""The folder that clones have for themselves, and what a killed one leaves of it."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.snapshot.clone_files import bound_socket, create_empty, new_folder

KILLED = """
import contextlib, os, signal
from pagecheck.snapshot.clone_files import bound_socket, create_empty, new_folder
undo = contextlib.ExitStack()
folder, _lock = new_folder(undo)
bound_socket(folder + "/clone1.qmp", undo)
create_empty(folder + "/clone1-disk.qcow2", undo)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pctest-") as short:  # for names of sockets
        monkeypatch.setenv("TMPDIR", short)
        yield Path(short)


def left_by_a_killed_one(place: Path) -> Path:
    before = set(place.iterdir())
    command = [sys.executable, "-c", KILLED]
    assert subprocess.run(command, check=False, timeout=30).returncode == -9
    (folder,) = set(place.iterdir()) - before
    return folder


def test_it_goes_with_its_owner(place: Path) -> None:
    with contextlib.ExitStack() as undo:
        folder = Path(new_folder(undo)[0])
        create_empty(str(folder / "clone1-disk.qcow2"), undo)
        bound_socket(str(folder / "clone1.qmp"), undo).close()
        assert list(place.iterdir()) == [place / folder.name]
    assert list(place.iterdir()) == []


def test_what_a_killed_one_left_is_removed(place: Path) -> None:
    folder = left_by_a_killed_one(place)
    assert sorted(each.name for each in folder.iterdir()) == ["clone1-disk.qcow2", "clone1.qmp"]
    with contextlib.ExitStack() as undo:
        assert new_folder(undo)[0] != str(folder)
        assert not folder.exists()


def test_what_has_an_owner_stays(place: Path) -> None:
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as other:
        folders = {new_folder(undo)[0], new_folder(other)[0]}
        assert {each.name for each in place.iterdir()} == {Path(each).name for each in folders}


def test_a_vm_that_goes_on_keeps_its_files(place: Path) -> None:
    """Also where the socket at which it listens is elsewhere."""
    path, lock = new_folder(contextlib.ExitStack())
    overlay = Path(path, "clone1-disk.qcow2")
    overlay.touch()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock]) as vm:
        os.close(lock)  # as where its pagecheck is killed
        with contextlib.ExitStack() as undo:
            new_folder(undo)
        assert overlay.exists()
        vm.communicate(timeout=30)
    with contextlib.ExitStack() as undo:
        new_folder(undo)
    assert not overlay.exists()


@pytest.mark.parametrize("name", ["notes.txt", "clone1", "clone1.qmp.txt"])
def test_what_is_not_ours_stays(place: Path, name: str) -> None:
    folder = left_by_a_killed_one(place)
    (folder / name).write_text("mine")
    with contextlib.ExitStack() as undo:
        new_folder(undo)
    assert len(list(folder.iterdir())) == 3


def test_links_and_folders_of_others_stay(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "clone1.qcow2").touch()
    (place / "pagecheck-clones-link").symlink_to(elsewhere)
    somebody = place / "pagecheck-clones-somebody"
    somebody.mkdir()
    (somebody / "clone1.qcow2").touch()
    if os.geteuid() == 0:
        os.chown(somebody, 65534, 65534)
    else:
        somebody.joinpath("kept").touch()
    with contextlib.ExitStack() as undo:
        new_folder(undo)
    assert (elsewhere / "clone1.qcow2").exists()
    assert (somebody / "clone1.qcow2").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing is taken for left behind there."""
    left = left_by_a_killed_one(place)

    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with contextlib.ExitStack() as undo:
        assert Path(new_folder(undo)[0]).is_dir()
    assert list(place.iterdir()) == [left]


def test_without_a_descriptor_nothing_is_left(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **_more: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, contextlib.ExitStack() as undo:
        patch.setattr("os.open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            new_folder(undo)
    assert list(place.iterdir()) == []


def test_others_that_remove_each_new_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(folder: str, mode: int) -> None:
        """Made, and gone again."""

    monkeypatch.setattr("os.mkdir", removed)
    with contextlib.ExitStack() as undo, pytest.raises(BlockingIOError):
        new_folder(undo)
    assert list(place.iterdir()) == []


def test_a_place_that_cannot_be_listed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with contextlib.ExitStack() as undo:
        with monkeypatch.context() as patch:
            patch.setattr("os.listdir", refused)
            folder, _lock = new_folder(undo)
        assert Path(folder).is_dir()
