"""Ownership of the names in /dev/shm, and the sweep of those that dead owners left.

Every coordinator has a random token. Its names are `pagecheck-UID-TOKEN-WHAT`; the one called
`owner` is created first, locked with flock for as long as the coordinator lives, and removed last.
An unlocked `owner` therefore means that the names of its token are stale. A very recent name may
belong to a coordinator that is between creating and locking: it is not removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from pagecheck.errors import ResourceError
from pagecheck.shortage import explain

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

SHM: Final = "/dev/shm"
_HEX: Final = frozenset("0123456789abcdef")
MIN_AGE_S: Final = 2.0


class Owner:
    """A coordinator's claim on its names: holds the lock until `close`."""

    def __init__(self) -> None:
        """Creates and locks the owner's name.

        Raises:
            ResourceError: /dev/shm cannot be written.
        """
        self._pid = os.getpid()
        self._fd = -1
        try:
            while self._fd < 0:
                self._claim()
        except OSError as error:
            why = explain(error) or f"{error.strerror}; pagecheck needs a writable /dev/shm"
            raise ResourceError(f"{SHM}: cannot create shared memory: {why}") from error

    def _claim(self) -> None:
        """One attempt: it fails, and another token is tried, when a sweep came before the lock
        (this process was suspended for longer than MIN_AGE_S)."""
        self.prefix = f"pagecheck-{os.geteuid()}-{os.urandom(8).hex()}"
        self._path = f"{SHM}/{self.prefix}-owner"
        fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                self._fd = fd
        except BlockingIOError:
            pass  # a sweep holds the lock and removes the name
        except BaseException:
            os.unlink(self._path)
            raise
        finally:
            if self._fd < 0:
                os.close(fd)

    def name(self, what: str) -> str:
        """The POSIX name, with its slash, of one of this owner's objects."""
        return f"/{self.prefix}-{what}"

    def close(self) -> None:
        """Removes this owner's remaining names, its own last, and releases the lock; in a
        forked child it only closes the descriptor."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if os.getpid() != self._pid:
            os.close(fd)
            return
        try:
            names = self._names()
        except OSError:  # no descriptor is left to list them; a sweep that comes first does as much
            os.close(fd)
            _remove(self._names())
            return
        _remove(names)
        os.close(fd)

    def _names(self) -> list[str]:
        """All that are left. Its own by that name: a user id that is not the kernel's (a seccomp
        filter makes one of an error number) hides it from the list, and from every later sweep."""
        return [*_names_by_token().get(self.prefix, []), os.path.basename(self._path)]


def _remove(names: list[str]) -> list[str]:
    removed = []
    for name in sorted(names, key=lambda each: each.endswith("-owner")):  # the owner's name last
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{SHM}/{name}")
            removed.append(name)
    return removed


def _is_live(path: str) -> bool:
    """Whether the lock on the owner's name is held. A file of another user is not an owner's; where
    the lock cannot be tried (out of descriptors, a lease on the file), it counts as held."""
    try:
        there = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        st = os.fstat(there)
        if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid():
            return False
        fd = os.open(f"/proc/self/fd/{there}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return True
    finally:
        os.close(there)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_numbered(text: str, first: str, second: str) -> bool:
    """Whether it is such as c0g1."""
    one, between, two = text.removeprefix(first).partition(second)
    return text.startswith(first) and bool(between) and _is_number(one) and _is_number(two)


def _owner_of(name: str) -> tuple[str, int] | None:
    """The prefix and the user id of a name of exactly our form, else None. No pattern: `re`
    would be loaded for it alone."""
    if name.count("-") not in (3, 4):
        return None
    word, uid, token, *what = name.split("-")
    if word != "pagecheck" or not _is_number(uid) or len(token) != 16 or set(token) - _HEX:
        return None
    match what:
        case ["owner"]:
            pass
        case [where, "ring" | "control"] if _is_numbered(where, "c", "g"):
            pass
        case [where, "bitmaps"] if _is_numbered(where, "b", "s"):
            pass
        case _:
            return None
    return f"{word}-{uid}-{token}", int(uid)


def _names_by_token() -> dict[str, list[str]]:
    """File names in /dev/shm of this user's coordinators, by their prefix: only names of
    exactly our form, and files that this user owns."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(SHM):
        owner = _owner_of(name)
        if owner and owner[1] == os.geteuid() and _is_our_file(name):
            found.setdefault(owner[0], []).append(name)
    return found


def _is_our_file(name: str) -> bool:
    try:
        st = os.lstat(f"{SHM}/{name}")
    except FileNotFoundError:
        return False
    return stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid()


def _is_old(name: str, min_age_s: float) -> bool:
    try:
        return time.time() - os.lstat(f"{SHM}/{name}").st_mtime >= min_age_s
    except FileNotFoundError:
        return True


def sweep(min_age_s: float = MIN_AGE_S) -> list[str]:
    """Removes this user's names whose owner is dead.

    Args:
        min_age_s: a coordinator with a name younger than this is skipped, and its lock is not
            tried, which could disturb it.

    Returns:
        The file names that were removed.
    """
    removed: list[str] = []
    with contextlib.suppress(OSError):  # a failed sweep must not fail the start
        for prefix, names in _names_by_token().items():
            old = all(_is_old(name, min_age_s) for name in names)
            if old and not _is_live(f"{SHM}/{prefix}-owner"):
                removed += _remove(names)
    return removed
