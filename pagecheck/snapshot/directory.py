"""A snapshot's directory while it is made: whole under its final name, or not there.

Facts: several files cannot appear at once, a directory can: by a rename. A rename may reach the
disk before the data of the files does, and a process can be killed at any moment. Danger: half a
snapshot under the final name, an older one replaced, or the RAM of a guest left in folders that
nobody removes. Decision: everything is written in a directory beside the final one, of a name of
ours; all files and then that directory are synced, it is renamed without replacing anything, and
the folder around it is synced. A file in it says that it is ours, and a lock on that file that its
save lives; it goes with the rename and is removed right after, and readers ignore it. The next save
removes directories whose lock is free, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat

from pagecheck.child.signals import signals_held
from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.report.publish import move, refusals, sync
from pagecheck.snapshot.members import is_file_name
from pagecheck.snapshot.outside import require_no_snapshot
from pagecheck.snapshot.values import MANIFEST

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

MARKER: Final = ".pagecheck-save"
MARKER_TEXT: Final = b"pagecheck writes a snapshot here, and removes it if it cannot\n"

_TEMPORARY: Final = re.compile(r"\..+\.pagecheck-[0-9]+-[0-9a-f]{16}", re.DOTALL)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS: Final = 10
_NAME_BYTES_MAX: Final = 255


class NewDirectory:
    """A directory that is being written; a context manager that removes it unless it was finished.

    Attributes:
        path: the final one.
        fd: descriptor of the directory, under whatever name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes the final path; nothing is done yet."""
        self.path = os.fspath(path)
        self.fd = -1
        self._folder = -1
        self._marker = -1
        self._name = ""
        self._files: dict[str, int] = {}

    def __enter__(self) -> NewDirectory:
        """Makes the directory beside the final one, after what killed saves left there was removed.

        Raises:
            OutputError: the final path is taken, or in a snapshot, or a directory cannot be made
                beside it.
        """
        folder, self._final = _parted(self.path)
        try:
            with refusals(self.path):
                self._folder = _open_around(self.path, folder)
                self._require_free()
                require_no_snapshot(self._folder, self.path)
                remove_leftovers(self._folder)
                self._make()
        except BaseException:
            self.close()
            raise
        return self

    def _require_free(self) -> None:
        try:
            os.stat(self._final, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        raise OutputError(
            f"{printable(self.path)}: exists, and is left as it is; choose another name, or remove "
            "it"
        )

    def _make(self) -> None:
        """A save that removes leftovers may take a directory without its lock for one."""
        for _attempt in range(_ATTEMPTS):
            with signals_held():
                self._name = f".{self._final}.pagecheck-{os.getpid()}-{os.urandom(8).hex()}"
                os.mkdir(self._name, 0o700, dir_fd=self._folder)
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                self.fd = _open_private(self._folder, self._name)
                self._mark()
                return
            self._remove()
        raise OutputError(f"{printable(self.path)}: other saves remove what this one creates")

    def _mark(self) -> None:
        self._marker = self._new_file(MARKER)
        fcntl.flock(self._marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(self._marker).st_nlink == 0:
            raise FileNotFoundError
        os.write(self._marker, MARKER_TEXT)

    def _new_file(self, name: str) -> int:
        fd = os.open(name, _NEW, 0o600, dir_fd=self.fd)
        try:
            os.fchmod(fd, 0o600)
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=self.fd)
            raise
        return fd

    @property
    def temporary(self) -> str:
        """Path of the directory until it is finished."""
        return os.path.join(os.path.dirname(self.path.rstrip("/")), self._name)

    def create(self, name: str) -> int:
        """Creates a file that only its owner may read and write.

        Returns:
            Its descriptor, for reading and writing, which the caller closes; `finish` syncs the
            file all the same.

        Raises:
            OutputError: it cannot be created.
        """
        assert is_file_name(name) or name == MANIFEST, name
        with refusals(f"{self.path}/{name}"):
            with signals_held():  # a file without a note of it would stay
                self._files[name] = self._new_file(name)
            return os.dup(self._files[name])

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Creates a file with this content.

        Raises:
            OutputError: the disk is full, or it cannot be created.
        """
        fd = self.create(name)
        try:
            with refusals(f"{self.path}/{name}"):
                left = memoryview(data).cast("B")
                while len(left):
                    left = left[os.write(fd, left[: 1 << 30]) :]
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Removes a file that was created here.

        Raises:
            OutputError: it cannot be removed.
        """
        with refusals(f"{self.path}/{name}"):
            os.unlink(name, dir_fd=self.fd)
            os.close(self._files.pop(name))

    def finish(self) -> None:
        """Syncs everything and gives the directory its final name.

        Raises:
            OutputError: that failed, or something has the name by now; nothing of ours is left.
        """
        for name, fd in self._files.items():
            with refusals(f"{self.path}/{name}"):
                sync(fd)
        with refusals(self.path):
            sync(self.fd)
            with signals_held():
                self._publish()

    def _publish(self) -> None:
        made = self._name
        try:
            move(self._folder, made, self._final)
        except FileExistsError:
            raise OutputError(
                f"{printable(self.path)}: was created meanwhile, and is left as it is; choose "
                "another name"
            ) from None
        self._name = self._final
        try:
            sync(self._folder)
            os.unlink(MARKER, dir_fd=self.fd)
        except BaseException:
            # Half removed it may not stand under the final name, where a kill would leave it.
            move(self._folder, self._final, made)
            self._name = made
            raise
        self._name = ""

    def _remove(self) -> None:
        """Removes what this made; the marker last: what is half removed is still recognised."""
        for name in (*self._files, MARKER) if self.fd >= 0 else ():
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self.fd)
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._folder)
        self._name = ""
        self._close_files()

    def _close_files(self) -> None:
        for fd in (*self._files.values(), self._marker, self.fd):
            if fd >= 0:
                os.close(fd)
        self._files, self._marker, self.fd = {}, -1, -1

    def close(self) -> None:
        """Removes the directory unless it was finished, and closes every descriptor."""
        with signals_held():
            if self._name:
                self._remove()
            self._close_files()
            if self._folder >= 0:
                os.close(self._folder)
            self._folder = -1

    def __exit__(self, *_error: object) -> None:
        self.close()


def remove_leftovers(folder: int) -> list[str]:
    """Removes directories that killed saves of this user left in a folder.

    A directory is one of those where its name, its owner and its marker are ours, and no living
    process holds the marker's lock.

    Args:
        folder: descriptor of the folder.

    Returns:
        Their names.
    """
    with os.scandir(folder) as entries:
        found = sorted(each.name for each in entries if _TEMPORARY.fullmatch(each.name))
    return [name for name in found if _remove_leftover(folder, name)]


def _remove_leftover(folder: int, name: str) -> bool:
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        fd = os.open(name, _FOLDER, dir_fd=folder)
        opened.callback(os.close, fd)
        if not _is_ours(os.fstat(fd)):
            return False
        names = os.listdir(fd)
        if MARKER in names:
            opened.callback(os.close, _locked_marker(fd))
        elif names:
            return False
        # A file that was added by others stays, and with it the directory.
        for each in sorted(names, key=lambda each: each == MARKER):
            if each in (MARKER, MANIFEST) or is_file_name(each):
                os.unlink(each, dir_fd=fd)
        os.rmdir(name, dir_fd=folder)
        return True
    return False


def _locked_marker(folder: int) -> int:
    """The marker's descriptor, with the lock that its save has released by its end.

    Raises:
        OSError: the save lives, or it is not the file of a save.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(MARKER, flags, dir_fd=folder)
    try:
        status = os.fstat(fd)
        text = os.pread(fd, len(MARKER_TEXT) + 1, 0)
        # One that was killed before it wrote has an empty marker.
        if (
            not stat.S_ISREG(status.st_mode)
            or not _is_ours(status)
            or text not in (b"", MARKER_TEXT)
        ):
            raise OSError(errno.EPERM, "not of a save")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _open_private(folder: int, name: str) -> int:
    """Opens a directory that was just made, for its owner alone whatever the umask."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{path}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path)
    finally:
        os.close(path)


def _parted(path: str) -> tuple[str, str]:
    """The folder around the final path, and the name in it.

    Raises:
        OutputError: there is no such name.
    """
    folder, name = os.path.split(path.rstrip("/"))
    longest = _NAME_BYTES_MAX - len(f"..pagecheck-{os.getpid()}-{'0' * 16}")
    if name in ("", ".", "..") or "\0" in path:
        raise OutputError(
            f"{printable(path) or 'an empty path'}: is not a name for a new directory"
        )
    if len(os.fsencode(name)) > longest:
        raise OutputError(f"{printable(path)}: the name may have {longest} bytes at most")
    return folder or ".", name


def _open_around(path: str, folder: str) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OutputError(
            f"{printable(path)}: cannot be written: there is no folder {printable(folder)}"
        ) from error
