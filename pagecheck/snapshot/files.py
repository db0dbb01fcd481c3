"""The files of a snapshot's directory, opened so that no name leads out of it.

Danger: a link, a pipe or a device in the place of a file would have something else read, or block.
Decision: names without a slash, opened relative to the directory, links not followed, and only
regular files.
"""

from __future__ import annotations

import errno
import os
import stat

from pagecheck.errors import SnapshotError, SourceError
from pagecheck.printable import printable
from pagecheck.shortage import is_limit, refused
from pagecheck.snapshot.values import MANIFEST

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_PIECE_BYTES: Final = 1 << 20
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_OTHERS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Folder:
    """An open directory; a context manager that closes it.

    Attributes:
        path: as it was given.
        fd: its descriptor.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens it.

        Raises:
            SourceError: it does not exist, is not a directory, or may not be read.
        """
        self.path = os.fspath(path)
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise SourceError(
                f"{printable(self.path)}: is not a directory; name the directory that a save made"
            ) from None
        except (OSError, ValueError) as error:  # a NUL in the path
            raise _unusable(self.path, error) from error

    def path_of(self, name: str) -> str:
        """What messages call a file."""
        return printable(os.path.join(self.path, name))

    def names(self) -> list[str]:
        """The name of everything in it, in order."""
        return sorted(os.listdir(self.fd))

    def open(self, name: str) -> int:
        """Opens a regular file for reading.

        Returns:
            Its descriptor, which the caller closes.

        Raises:
            SnapshotError: it is missing, not a regular file, or cannot be read.
            SourceError: it may not be read.
        """
        where = self.path_of(name)
        try:
            self._require_regular(os.stat(name, dir_fd=self.fd, follow_symlinks=False), where)
            fd = os.open(name, _FLAGS, dir_fd=self.fd)
        except OSError as error:
            raise _unreadable(where, error) from error
        try:
            self._require_regular(os.fstat(fd), where)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _require_regular(self, status: os.stat_result, where: str) -> None:
        if not stat.S_ISREG(status.st_mode):
            what = _OTHERS.get(stat.S_IFMT(status.st_mode), "something else")
            raise SnapshotError(f"{where}: is {what}, and must be a regular file of the snapshot")

    def read(self, name: str, most: int) -> bytes:
        """The content of a file.

        Args:
            most: bytes that it may have.

        Raises:
            SnapshotError: it is longer, or cannot be read.
            SourceError: it may not be read.
        """
        return b"".join(self.pieces(name, most))

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        """As `read`, for a file that may be large: a piece after the other."""
        where = self.path_of(name)
        fd = self.open(name)
        try:
            size, at = os.fstat(fd).st_size, 0
            if size > most:
                raise SnapshotError(f"{where}: has {size} bytes, and may have {most} at most")
            while at < size and (piece := os.pread(fd, min(size - at, _PIECE_BYTES), at)):
                yield piece
                at += len(piece)
        except OSError as error:
            raise _unreadable(where, error) from error
        finally:
            os.close(fd)

    def close(self) -> None:
        """Closes it."""
        os.close(self.fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _unusable(path: str, error: OSError | ValueError) -> Exception:
    """About a path that no directory is opened by: the snapshot may be whole all the same."""
    if is_limit(error):
        return refused(printable(path), error)
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{printable(path) or 'an empty path'}: does not exist")
    why = getattr(error, "strerror", None) or str(error)
    return SourceError(f"{printable(path)}: cannot be read: {why}")


def _unreadable(where: str, error: OSError) -> Exception:
    if is_limit(error) or isinstance(error, PermissionError):
        return _unusable(where, error)
    if error.errno == errno.ENOENT:
        manifest = where.endswith(f"/{MANIFEST}")
        why = "; a directory without it is not a snapshot" if manifest else ""
        return SnapshotError(f"{printable(where)}: does not exist{why}")
    if error.errno == errno.ELOOP:
        return SnapshotError(f"{printable(where)}: is a symbolic link, and links are not followed")
    return SnapshotError(f"{printable(where)}: cannot be read: {error.strerror}")
