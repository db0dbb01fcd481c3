"""Owners of names and the sweep of what dead ones left.

Every test works in a folder of its own: a sweep of the real /dev/shm, above all one that spares
nothing young, would take the names of whoever starts at the same moment.
"""

import errno
import fcntl
import os
import re
import resource
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError
from pagecheck.shm import owner
from pagecheck.shm.owner import Owner, sweep
from tests.support.leftovers import open_fds
from tests.support.users import lease_held, needs_root, opens_that_wait

TOKEN = "0123456789abcdef"

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def shm(monkeypatch: pytest.MonkeyPatch, shm_folder: Path) -> Path:
    """The folder that takes the place of /dev/shm."""
    monkeypatch.setattr(owner, "SHM", str(shm_folder))
    return shm_folder


def ours(what: str, token: str = TOKEN) -> str:
    return f"pagecheck-{os.geteuid()}-{token}-{what}"


@pytest.fixture
def dead(shm: Path) -> list[Path]:
    """Names of an owner that ended without a word: its own, two segments."""
    gone = Owner()
    os.close(gone._fd)  # as the kernel does for the dead
    names = [shm / f"{gone.prefix}-owner", shm / f"{gone.prefix}-c0g1-ring"]
    names.append(shm / f"{gone.prefix}-c0g1-control")
    for name in names[1:]:
        name.write_bytes(b"x")
    return names


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1, 1), follow_symlinks=False)


def test_names_carry_user_and_token() -> None:
    one, two = Owner(), Owner()
    assert re.fullmatch(rf"pagecheck-{os.geteuid()}-[0-9a-f]{{16}}", one.prefix)
    assert one.prefix != two.prefix
    assert one.name("x") == f"/{one.prefix}-x"
    one.close()
    two.close()


def test_close_removes_the_name_once(shm: Path) -> None:
    made = Owner()
    assert os.listdir(shm) == [f"{made.prefix}-owner"]
    made.close()
    assert os.listdir(shm) == []
    made.close()


@pytest.mark.parametrize("uid", [-1, 2**32 - errno.ENOSYS])
def test_a_user_id_that_is_an_error_number_leaves_nothing(
    shm: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """What geteuid() gives under a seccomp filter: the C library takes no error of it for one."""
    monkeypatch.setattr(owner.os, "geteuid", lambda: uid)
    made = Owner()
    assert os.listdir(shm) == [f"pagecheck-{uid}-{made.prefix[-16:]}-owner"]
    made.close()
    assert os.listdir(shm) == []


def test_the_name_is_private(shm: Path) -> None:
    made = Owner()
    assert (shm / f"{made.prefix}-owner").stat().st_mode & 0o777 == 0o600
    made.close()


def test_close_without_a_descriptor_for_the_list(shm: Path) -> None:
    """As in a process that ends because it has none left."""
    owner = Owner()
    other = shm / f"{owner.prefix}-c0g1-ring"
    other.touch(0o600)
    hole = os.dup(0)
    os.close(hole)
    assert owner._fd < hole
    _soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hole, hard))
    try:
        owner.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir(shm) == []


def test_no_writable_dev_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SHM", "/nonexistent")
    with pytest.raises(ResourceError, match="/nonexistent"):
        Owner()
    assert sweep(0) == []


def test_live_owner_is_kept(shm: Path) -> None:
    made = Owner()
    ring = shm / f"{made.prefix}-c0g1-ring"
    ring.write_bytes(b"x")
    make_old(ring, shm / f"{made.prefix}-owner")
    assert sweep(0) == []
    assert ring.exists()
    made.close()


def test_dead_owner_is_swept(shm: Path, dead: list[Path]) -> None:
    make_old(*dead)
    assert {path.name for path in dead} == set(sweep())
    assert os.listdir(shm) == []


def test_the_owners_name_goes_last(dead: list[Path]) -> None:
    make_old(*dead)
    assert sweep()[-1] == dead[0].name


def test_young_names_are_kept(dead: list[Path]) -> None:
    assert sweep() == []
    assert all(path.exists() for path in dead)


@pytest.mark.parametrize("young", [0, 1, 2])
def test_one_young_name_keeps_all(dead: list[Path], young: int) -> None:
    make_old(*(path for n, path in enumerate(dead) if n != young))
    assert sweep() == []


def test_names_without_an_owner_are_swept(shm: Path, dead: list[Path]) -> None:
    dead[0].unlink()
    make_old(*dead[1:])
    sweep()
    assert os.listdir(shm) == []


@pytest.mark.parametrize(
    "name",
    [
        "pctest-other",
        "pagecheck",
        "pagecheck-",
        f"pagecheck-{os.geteuid() + 1}-{TOKEN}-owner",
        f"x{ours('owner')}",
    ],
)
def test_other_names_are_untouched(shm: Path, name: str) -> None:
    (shm / name).write_bytes(b"x")
    make_old(shm / name)
    assert sweep(0) == []
    assert (shm / name).exists()


@pytest.mark.parametrize("name", ["guest.ram", "vm-1", TOKEN])
def test_a_users_file_with_our_prefix_is_untouched(shm: Path, name: str) -> None:
    path = shm / f"pagecheck-{os.geteuid()}-{name}"
    path.write_bytes(b"x")
    make_old(path)
    sweep()
    assert path.exists()


def test_a_folder_with_our_prefix_is_no_obstacle(shm: Path) -> None:
    (shm / ours("owner")).mkdir()
    make_old(shm / ours("owner"))
    sweep()


def test_symlink_is_not_followed(shm: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x")
    (shm / ours("owner")).symlink_to(target)
    make_old(shm / ours("owner"))
    sweep()
    assert target.read_bytes() == b"x"


def test_a_forked_child_removes_nothing(shm: Path) -> None:
    made = Owner()
    pid = os.fork()
    if pid == 0:
        made.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.listdir(shm) == [f"{made.prefix}-owner"]
    made.close()


def test_a_young_owner_is_never_locked(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between creating and locking its name an owner must not find it locked by a sweep."""
    (shm / ours("owner")).touch()
    locked: list[str] = []
    real = fcntl.flock

    def noting(fd: int, how: int) -> None:
        locked.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd, how)

    monkeypatch.setattr(owner.fcntl, "flock", noting)
    sweep()
    assert ours("owner") not in locked


def test_an_owner_that_was_swept_before_it_locked_notices(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it holds a lock that nobody can find, and the next sweep takes its rings."""
    real = fcntl.flock
    swept: list[str] = []

    def late(fd: int, how: int) -> None:
        if not swept:  # we were stopped longer than MIN_AGE_S between the two calls
            swept.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.unlink(swept[0])
        real(fd, how)

    monkeypatch.setattr(owner.fcntl, "flock", late)
    made = Owner()
    there = (shm / f"{made.prefix}-owner").exists()
    made.close()
    assert there


def test_an_owner_that_cannot_lock_leaves_nothing(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(owner.fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="No locks"):
        Owner()
    left = [fd for fd, to in open_fds().items() if to.startswith(str(shm))]
    for fd in left:
        os.close(fd)
    assert (left, os.listdir(shm)) == ([], [])


@needs_root
def test_another_users_lease_on_an_owners_name_is_not_waited_for(
    shm: Path, dead: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a file of ours says that somebody lives: theirs is not even opened."""
    dead[0].unlink()
    shm.chmod(0o777)
    make_old(*dead[1:])
    with lease_held(dead[0]), opens_that_wait(monkeypatch, "") as waited:
        make_old(dead[0])
        assert {path.name for path in dead[1:]} == set(sweep())
    assert waited == []
    assert os.listdir(shm) == [dead[0].name]


@needs_root
def test_a_lease_on_our_own_name_is_not_waited_for(
    shm: Path, dead: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease_held(dead[0], os.geteuid()), opens_that_wait(monkeypatch, "") as waited:
        make_old(*dead)
        assert sweep() == []
    assert waited == []
    assert dead[0].exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_an_owner_that_cannot_be_asked_counts_as_living(
    dead: list[Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A process without a free descriptor must not take the names of one that lives."""
    make_old(*dead)

    def refuse(*_: object, **_more: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owner.os, "open", refuse)
        assert sweep() == []
    assert all(path.exists() for path in dead)
