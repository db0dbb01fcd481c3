"""The file that a RAM block is restored to: a new one, or one that holds RAM already.

Danger: a file that is not ours to write, or that a running VM uses. Decision: what exists is only
written to where the user says so, where it is a regular file of exactly the block's size, and while
nobody else has it open. A new file has no name until all of it is there, so that a restore that is
killed leaves nothing; it never replaces anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from typing import Any, Final

from pagecheck.errors import OutputError, PagecheckError
from pagecheck.native import _native
from pagecheck.printable import printable
from pagecheck.report.publish import Draft
from pagecheck.shm.ram import HUGETLBFS, shm_path
from pagecheck.shortage import explain, is_limit, refused
from pagecheck.snapshot import lease

_PUNCH: Final = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h
_ONTO: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def path_of(ram: str) -> str:
    """The absolute path that `--ram` means.

    Raises:
        OutputError, SourceError: it is not a name for a file.
    """
    path = shm_path(ram) if ram.startswith("shm:") else ram
    if "\0" in path or os.path.basename(path) in ("", ".", ".."):
        raise OutputError(f"{printable(ram) or 'an empty path'}: is not a name for a RAM file")
    return os.path.abspath(path)


def require_usable(path: str, size: int, *, onto: bool) -> bool:
    """Checks what is at a path; nothing is opened.

    Args:
        path: absolute.
        size: bytes of the RAM block.
        onto: what exists there is RAM that may be written over.

    Returns:
        Whether there is something.

    Raises:
        OutputError: it may not be written to.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refusal(path, error) from error
    if stat.S_ISREG(found.st_mode) and not onto:
        raise OutputError(
            f"{printable(path)}: exists, and is left as it is; choose another name, or say --onto "
            "if it is RAM that may be written over"
        )
    _require_ram(path, found, size)
    return True


def _require_ram(path: str, found: os.stat_result, size: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(
            f"{printable(path)}: exists and is not a regular file; RAM is restored to a new file, "
            "or onto a RAM file"
        )
    if found.st_size != size:
        raise OutputError(
            f"{printable(path)}: has {found.st_size} bytes, and the RAM block has {size}; it is "
            "not RAM of this VM"
        )


def _refusal(path: str, error: OSError) -> PagecheckError:
    if is_limit(error):
        return refused(printable(path), error)
    why = explain(error) or error.strerror or str(error)
    if error.errno == errno.ENOENT:
        why = f"there is no folder {printable(os.path.dirname(path))}"
    return OutputError(f"{printable(path)}: cannot be written: {why}")


class RamTarget:
    """A file that is being written; a context manager that leaves no new file unless it was
    published.

    Attributes:
        path: its absolute path.
        size: bytes of the RAM block.
        fd: its descriptor, for reading and writing.
        is_new: it was created here.
    """

    def __init__(self, path: str, size: int, *, onto: bool) -> None:
        """Creates or opens it.

        Args:
            path: absolute.
            size: bytes of the RAM block.
            onto: what exists there is RAM that may be written over.

        Raises:
            OutputError: it may not be used, or there is no room for it.
        """
        self.path = path
        self.size = size
        self._name = os.path.basename(path)
        self._draft: Draft | None = None
        self._folder = -1
        self.is_new = not require_usable(path, size, onto=onto)
        try:
            self.fd = self._create() if self.is_new else self._open()
        except OSError as error:
            self.close()
            raise self.refusal(error) from error
        except BaseException:
            self.close()
            raise

    def _create(self) -> int:
        folder = os.path.dirname(self.path)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._draft = Draft(self._folder)
        self.fd = fd = self._draft.fd
        os.fchmod(fd, 0o600)
        self._require_whole_pages()
        os.ftruncate(fd, self.size)
        return fd

    def _require_whole_pages(self) -> None:
        if self.is_hugetlbfs and self.size % self.huge_page:
            raise OutputError(
                f"{printable(self.path)}: would have huge pages of {self.huge_page} bytes, of "
                f"which {self.size} is not a multiple; choose a place with smaller pages"
            )

    def _open(self) -> int:
        self.fd = fd = os.open(self.path, _ONTO)
        _require_ram(self.path, os.fstat(fd), self.size)
        self._require_unused(fd)
        return fd

    def _require_unused(self, fd: int) -> None:
        """From now on until it is published, nobody else can have the file open or mapped."""
        try:
            lease.take(fd)
        except BlockingIOError as error:
            raise OutputError(
                f"{printable(self.path)}: another process has it open or mapped; end the VM that "
                "uses it first"
            ) from error
        except OSError as error:
            raise OutputError(
                f"{printable(self.path)}: that nobody uses it cannot be known "
                f"({error.strerror}); restore to a new file"
            ) from error

    @property
    def is_hugetlbfs(self) -> bool:
        """Whether it can only be written through a mapping."""
        return _native.file_system_magic(self.fd) == HUGETLBFS

    @property
    def huge_page(self) -> int:
        """Bytes of a page of its hugetlbfs."""
        return os.fstatvfs(self.fd).f_bsize

    @property
    def allocated(self) -> int:
        """Bytes that it has allocated."""
        return os.fstat(self.fd).st_blocks * 512

    def require_room(self, wanted: int) -> None:
        """Checks that a new file's pages fit.

        Raises:
            OutputError: they do not.
        """
        room = os.fstatvfs(self.fd)
        left = room.f_bavail * room.f_frsize
        # That of hugetlbfs says nothing unless it was mounted with a size.
        if self.is_new and wanted > left and not self.is_hugetlbfs:
            raise OutputError(
                f"{printable(self.path)}: its file system has {left >> 20} MiB left, and the "
                f"snapshot's pages take {-(-wanted >> 20)} MiB"
            )

    def punch(self, offset: int, size: int) -> None:
        """Makes a part of it a hole, which reads as zeros.

        Raises:
            OSError: the file system cannot.
        """
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if libc.fallocate(self.fd, _PUNCH, offset, size):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def publish(self) -> None:
        """Gives a new file its name, and lets others open one that existed.

        Raises:
            OutputError: something has that name by now, or it cannot be given; or another process
                wanted to open the file that was written over, or removed or replaced it.
        """
        if self._draft is None:
            is_whole = lease.is_whole(self.fd)
            lease.release(self.fd)
            if not is_whole:
                raise OutputError(
                    f"{printable(self.path)}: another process opened it, or waits to, while it was "
                    "written over; end that process"
                )
            self._require_its_name()
            return
        try:
            self._draft.publish(self._name)
        except FileExistsError as error:
            raise OutputError(
                f"{printable(self.path)}: was created meanwhile, and is left as it is"
            ) from error
        except OSError as error:
            raise self.refusal(error) from error

    def _require_its_name(self) -> None:
        """The kernel's lease is for the file, and not for its name."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self.fd), os.lstat(self.path)):
                return
        raise OutputError(
            f"{printable(self.path)}: was removed or replaced while it was written over; nothing "
            "of the snapshot is there: restore again"
        )

    def take_back(self) -> None:
        """Removes a file that was published here, if its name is still its own."""
        if self._draft is not None and self._draft.is_at(self._name):
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)

    def refusal(self, error: OSError) -> PagecheckError:
        """What to raise for a refusal of the system."""
        return _refusal(self.path, error)

    def close(self) -> None:
        """Closes it; a new file that was not published is gone."""
        if self._draft is not None:
            self._draft.close()
        elif getattr(self, "fd", -1) >= 0:
            os.close(self.fd)
        self.fd = -1
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> RamTarget:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
