"""Files that appear in a folder complete and synced, and never replace another one.

Facts: rename(2) replaces an existing file; link(2) and renameat2(2) with RENAME_NOREPLACE do
not; a file made with O_TMPFILE has no name until it is linked, and vanishes with a process that is
killed before. Not every file system has each of these. Decision: unnamed files where supported,
else a name that begins with `.pagecheck-`; and the first way to publish that works.

Not handled: where a file system has neither link(2) nor RENAME_NOREPLACE, a file that appears
between the check and the rename is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any, Final

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.shortage import explain, is_limit, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = ".pagecheck-"
RENAME_NOREPLACE: Final = 1  # Source: linux/fs.h
WRITE_BYTES: Final = 1 << 30  # one write(2) takes at most 2 GiB

_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC
_NOT_HERE: Final = (
    *(errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ENOENT, errno.EPERM),
    *(errno.ENOTTY, errno.EMLINK, errno.EXDEV),
)


class Draft:
    """A file that is being written and not yet visible under its name; a context manager that
    removes it where it was not published."""

    def __init__(self, folder: int) -> None:
        """Creates it.

        Args:
            folder: descriptor of the folder that it is going to be in.

        Raises:
            OSError: no file can be made there.
        """
        self._folder = folder
        self._name: str | None = None
        try:
            self.fd = os.open(".", _FLAGS | os.O_TMPFILE, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self.fd = self._open_named()

    def _open_named(self) -> int:
        name = new_name()
        made = _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, made, 0o666, dir_fd=self._folder)
        self._name = name
        return fd

    def write(self, data: bytes | memoryview) -> None:
        """Writes all of the data, and syncs the file.

        Raises:
            OSError: the disk is full, or a limit was reached.
        """
        left = memoryview(data).cast("B")
        while len(left):
            left = left[os.write(self.fd, left[:WRITE_BYTES]) :]
        with _unless_unknown():
            os.fsync(self.fd)

    def publish(self, name: str) -> None:
        """Publishes it under its name.

        Raises:
            FileExistsError: something has that name.
            OSError: it cannot be given.
        """
        if self._name is None:
            try:
                self._link(name)
                return
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
            self._copy()
        assert self._name is not None
        move(self._folder, self._name, name)
        self._name = None

    def _link(self, name: str) -> None:
        # With a folder's descriptor Python calls linkat(2) with AT_SYMLINK_FOLLOW, as this needs.
        link = f"/proc/self/fd/{self.fd}"
        os.link(link, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _copy(self) -> None:
        """Continues with a named file, where an unnamed one cannot be linked."""
        unnamed, self.fd = self.fd, self._open_named()
        try:
            at = 0
            while sent := os.sendfile(self.fd, unnamed, at, WRITE_BYTES):
                at += sent
            with _unless_unknown():
                os.fsync(self.fd)
        finally:
            os.close(unnamed)

    def is_at(self, name: str) -> bool:
        """Whether the name is this file's."""
        try:
            return os.path.samestat(os.fstat(self.fd), lstat(self._folder, name))
        except OSError:
            return False

    def close(self) -> None:
        """Closes it; a temporary name that is left is removed."""
        if self._name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
        os.close(self.fd)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def new_name(prefix: str = PREFIX) -> str:
    """An unused name."""
    return f"{prefix}{os.urandom(8).hex()}"


def lstat(folder: int, name: str) -> os.stat_result:
    """The status of the file of that name, links not followed."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def move(folder: int, old: str, new: str) -> None:
    """Renames in a folder, without replacing anything.

    Raises:
        FileNotFoundError: there is nothing to rename.
        FileExistsError: something has the new name.
        OSError: it cannot be renamed.
    """
    lstat(folder, old)
    for way in (_rename_no_replace, _link_and_unlink):
        try:
            way(folder, old, new)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
        else:
            return
    if _is_there(folder, new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def sync(folder: int) -> None:
    """Makes the folder's names durable, where the file system can."""
    with _unless_unknown():
        os.fsync(folder)


def _rename_no_replace(folder: int, old: str, new: str) -> None:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def _link_and_unlink(folder: int, old: str, new: str) -> None:
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(old, dir_fd=folder)


def _is_there(folder: int, name: str) -> bool:
    try:
        lstat(folder, name)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def refusals(path: str) -> Iterator[None]:
    """Turns a refusal of the system to write into the error that says so."""
    try:
        yield
    except OSError as error:
        what = f"{printable(path)}: cannot be written"
        if is_limit(error):
            raise refused(what, error) from error
        raise OutputError(f"{what}: {explain(error) or error.strerror or error}") from error


@contextlib.contextmanager
def _unless_unknown() -> Any:
    """Some file systems cannot sync; their error is not a loss of data."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS):
            raise
