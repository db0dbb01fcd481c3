"""Who owns the names in /dev/shm, and the sweep of what dead owners left.

Every coordinator has a random token. Its names are `pagecheck-UID-TOKEN-WHAT`; the one called
`owner` is created first, locked with flock for as long as the coordinator lives, and removed last.
An unlocked `owner` therefore means that nobody needs the names of its token any more. A name too
young may belong to a coordinator that is between creating and locking: it is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Final

from pagecheck.errors import ResourceError

SHM: Final = "/dev/shm"
MIN_AGE_S: Final = 2.0


class Owner:
    """A coordinator's claim on its names: holds the lock until `close`."""

    def __init__(self) -> None:
        """Creates and locks the owner's name.

        Raises:
            ResourceError: /dev/shm cannot be written.
        """
        self.prefix = f"pagecheck-{os.geteuid()}-{os.urandom(8).hex()}"
        self._pid = os.getpid()
        self._path = f"{SHM}/{self.prefix}-owner"
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResourceError(
                f"{SHM}: cannot create shared memory: {error.strerror}; "
                "pagecheck needs a writable /dev/shm"
            ) from error

    def name(self, what: str) -> str:
        """The POSIX name, with its slash, of one thing of this owner's."""
        return f"/{self.prefix}-{what}"

    def close(self) -> None:
        """Gives the claim up; in a forked child it only closes the descriptor."""
        if self._fd < 0:
            return
        if os.getpid() == self._pid:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        os.close(self._fd)
        self._fd = -1


def _is_live(path: str) -> bool:
    """Whether somebody holds the lock on the owner's name."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _names_by_token() -> dict[str, list[str]]:
    """File names in /dev/shm of this user's coordinators, by their prefix."""
    ours = f"pagecheck-{os.geteuid()}-"
    found: dict[str, list[str]] = {}
    for name in os.listdir(SHM):
        bare = name.removeprefix("sem.")
        if bare.startswith(ours):
            prefix = "-".join(bare.split("-")[:3])
            found.setdefault(prefix, []).append(name)
    return found


def _is_ours_and_old(name: str, min_age_s: float) -> bool:
    try:
        st = os.lstat(f"{SHM}/{name}")
    except FileNotFoundError:
        return True
    return st.st_uid == os.geteuid() and time.time() - st.st_mtime >= min_age_s


def sweep(min_age_s: float = MIN_AGE_S) -> list[str]:
    """Removes this user's names whose owner is dead.

    Args:
        min_age_s: names younger than this are left alone.

    Returns:
        The file names that were removed.
    """
    removed: list[str] = []
    try:
        tokens = _names_by_token()
    except OSError:
        return removed
    for prefix, names in tokens.items():
        owner = f"{prefix}-owner"
        if _is_live(f"{SHM}/{owner}"):
            continue
        if not all(_is_ours_and_old(name, min_age_s) for name in names):
            continue
        for name in sorted(names, key=lambda each: each == owner):  # the owner's name last
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{SHM}/{name}")
                removed.append(name)
    return removed
