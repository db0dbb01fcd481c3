"""The service's socket at a path, in a folder whose owner means harm."""

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecheck.errors import PagecheckError, ResourceError, UsageError
from pagecheck.service import socket_path
from pagecheck.service.activation import Listener, listen
from tests.support.users import NOBODY, lease_held, needs_root, opens_that_wait

LOCK = "s.lock"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its name is short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="pcs-", dir="/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def listening(folder: Path, *, for_others: bool = False) -> Iterator[Listener]:
    with listen(str(folder / "s"), None, for_others=for_others) as listener:
        yield listener


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177])
@pytest.mark.parametrize(("for_others", "wanted"), [(False, 0o600), (True, 0o666)])
def test_the_mode_comes_with_the_socket(
    folder: Path, umask: int, *, for_others: bool, wanted: int
) -> None:
    before = os.umask(umask)
    try:
        with listening(folder, for_others=for_others):
            assert mode(folder / "s") == wanted
            assert os.listdir(folder) == ["s"]
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert os.listdir(folder) == []


class Exchanging(socket.socket):
    """A socket beside whose `bind` or `listen` the folder's owner acts."""

    after_bind: Callable[[], None] = staticmethod(lambda: None)
    after_listen: Callable[[], None] = staticmethod(lambda: None)

    def bind(self, address: str) -> None:
        super().bind(address)
        Exchanging.after_bind()

    def listen(self, backlog: int) -> None:
        super().listen(backlog)
        Exchanging.after_listen()


@pytest.fixture
def exchanging(monkeypatch: pytest.MonkeyPatch) -> type[Exchanging]:
    monkeypatch.setattr(socket, "socket", Exchanging)
    monkeypatch.setattr(Exchanging, "after_bind", staticmethod(lambda: None))
    monkeypatch.setattr(Exchanging, "after_listen", staticmethod(lambda: None))
    return Exchanging


@pytest.mark.parametrize("moment", ["after_bind", "after_listen"])
def test_a_symlink_in_the_sockets_place_changes_no_other_file(
    folder: Path, tmp_path: Path, exchanging: type[Exchanging],
    monkeypatch: pytest.MonkeyPatch, moment: str,
) -> None:  # fmt: skip
    victim = tmp_path / "shadow"
    victim.write_text("secret")
    victim.chmod(0o600)

    def swap() -> None:
        (folder / "s").unlink()
        (folder / "s").symlink_to(victim)

    monkeypatch.setattr(exchanging, moment, staticmethod(swap))
    with contextlib.suppress(ResourceError), listening(folder, for_others=True):
        pass
    assert mode(victim) == 0o600
    assert victim.read_text() == "secret"
    assert (folder / "s").is_symlink()  # not ours, so not removed


def test_a_name_that_was_exchanged_at_once_is_told(
    folder: Path, exchanging: type[Exchanging], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanging, "after_bind", staticmethod((folder / "s").unlink))
    with pytest.raises(ResourceError, match="it was exchanged"), listening(folder):
        pass
    assert os.listdir(folder) == []


def test_what_took_the_sockets_place_is_left(folder: Path) -> None:
    with listening(folder):
        (folder / "s").unlink()
        (folder / "s").write_text("another's")
    assert (folder / "s").read_text() == "another's"


def test_the_end_is_in_the_folder_of_the_start(folder: Path) -> None:
    """A folder above that became a symlink leads nowhere else."""
    inner, other = folder / "in", folder / "other"
    inner.mkdir()
    other.mkdir()
    with listening(inner):
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(str(other / "s"))
        inner.rename(folder / "moved")
        inner.symlink_to(other)
    assert os.listdir(other) == ["s"]
    assert os.listdir(folder / "moved") == []


def test_a_reader_that_locks_the_folder_stops_nobody(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with listening(folder):
        pass
    os.close(fd)


def test_another_start_is_waited_for_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_path, "LOCK_S", 0.05)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(ResourceError, match=r"s\.lock: another start"), listening(folder):
        pass
    os.close(fd)
    with listening(folder):  # what it left is no obstacle
        pass
    assert os.listdir(folder) == []


def test_a_lock_that_was_removed_while_we_waited_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder removes it: whoever opened it before has a lock that nobody can find."""
    real = fcntl.flock
    taken: list[int] = []

    def late(fd: int, how: int) -> None:
        if not taken:
            (folder / LOCK).unlink()
        taken.append(os.fstat(fd).st_ino)
        real(fd, how)

    monkeypatch.setattr(socket_path.fcntl, "flock", late)
    with listening(folder):
        assert len(taken) == 2


def _symlink(at: Path, tmp: Path) -> None:
    at.symlink_to(tmp / "made-by-us")


def _directory(at: Path, _tmp: Path) -> None:
    at.mkdir()


def _fifo(at: Path, _tmp: Path) -> None:
    os.mkfifo(at)


def _socket(at: Path, _tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(at))


def _second_name(at: Path, _tmp: Path) -> None:
    (at.parent / "first").write_text("")
    os.link(at.parent / "first", at)


@pytest.mark.parametrize("put", [_symlink, _directory, _fifo, _socket, _second_name])
def test_what_is_in_the_locks_way_is_named_and_left(
    folder: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    put(folder / LOCK, tmp_path)
    with pytest.raises(UsageError, match=r"s\.lock: is in the way"), listening(folder):
        pass
    assert os.path.lexists(folder / LOCK)
    assert not (folder / "s").exists()
    assert not (tmp_path / "made-by-us").exists()


@needs_root
def test_another_users_lock_is_named(folder: Path) -> None:
    (folder / LOCK).write_text("")
    os.chown(folder / LOCK, NOBODY, NOBODY)
    with pytest.raises(UsageError, match="not a file of ours"), listening(folder):
        pass


@needs_root
def test_a_lease_on_the_lock_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o777)
    with (
        lease_held(folder / LOCK),
        opens_that_wait(monkeypatch, LOCK) as waited,
        pytest.raises(UsageError, match="not a file of ours"),
        listening(folder),
    ):
        pass
    assert waited == []


def _stale(at: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(at))


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    _stale(folder / "s")
    with listening(folder), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "s"))


def test_a_living_one_is_left(folder: Path) -> None:
    with listening(folder):
        with pytest.raises(UsageError, match="another process listens"), listening(folder):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "s"))


def test_a_symlink_to_a_stale_socket_is_no_socket(folder: Path) -> None:
    _stale(folder / "elsewhere")
    (folder / "s").symlink_to(folder / "elsewhere")
    with pytest.raises(UsageError, match="is not a socket"), listening(folder):
        pass
    assert (folder / "elsewhere").exists()


def test_a_start_that_fails_leaves_nothing(
    folder: Path, exchanging: type[Exchanging], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(12, "no memory")

    fds = os.listdir("/proc/self/fd")
    monkeypatch.setattr(exchanging, "after_listen", staticmethod(fail))
    with pytest.raises(PagecheckError, match="no memory"), listening(folder):
        pass
    assert os.listdir(folder) == []
    assert os.listdir("/proc/self/fd") == fds
