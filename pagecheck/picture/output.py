"""The file of a picture: whole or not there, and in the place of nothing but an earlier picture.

Not handled: a file that somebody puts there in the microseconds between the look at an earlier
picture and the rename is replaced; a file system that answers at first and then no more.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from pagecheck.child.signals import signals_held
from pagecheck.errors import OutputError, UsageError
from pagecheck.picture import drawing, page
from pagecheck.picture.sources import stat_soon
from pagecheck.printable import printable
from pagecheck.report.publish import Draft, lstat, new_name, refusals, sync

_START_BYTES: Final = 4096  # of a file, which show whether it is a picture of ours
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class PictureFile:
    """Where a picture is going to be; a context manager that closes the folder."""

    def __init__(self, path: str) -> None:
        """Checks that it can be written there, before any work is done.

        Raises:
            OutputError: it cannot, or something is there that is not a picture of ours.
        """
        from pagecheck.snapshot.outside import require_no_snapshot

        self._path = path
        self._folder = -1
        folder, self._name = os.path.split(path)
        if self._name in ("", ".", "..") or "\0" in path:
            raise OutputError(f"{printable(path) or 'an empty path'}: is not a name for a file")
        with refusals(self._path):
            stat_soon(folder or ".")
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._folder = os.open(folder or ".", flags)
        try:
            with refusals(self._path):
                self._require_ours()
                require_no_snapshot(self._folder, path)
                Draft(self._folder).close()
        except BaseException:
            self.close()
            raise

    def _require_ours(self) -> bool:
        """Whether an earlier picture of ours has the name.

        Raises:
            OutputError: something else has it.
        """
        try:
            mode = lstat(self._folder, self._name).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(mode) or not self._is_picture():
            raise OutputError(
                f"{printable(self._path)}: exists, and is not a picture that pagecheck made; it is "
                "left as it is: choose another name, or remove it"
            )
        return True

    def _is_picture(self) -> bool:
        try:
            fd = os.open(self._name, _READ, dir_fd=self._folder)
        except PermissionError:
            return False
        try:
            return is_picture(os.pread(fd, _START_BYTES, 0))
        finally:
            os.close(fd)

    def write(self, data: bytes) -> None:
        """Writes the picture, and gives it its name.

        Raises:
            OutputError: the disk is full, or something has the name by now.
        """
        with refusals(self._path), Draft(self._folder) as draft:
            draft.write(data)
            with signals_held():
                if self._require_ours():
                    self._replace(draft)
                else:
                    draft.publish(self._name)
            sync(self._folder)

    def _replace(self, draft: Draft) -> None:
        beside = new_name()
        draft.publish(beside)
        try:
            os.rename(beside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            os.unlink(beside, dir_fd=self._folder)
            raise

    def close(self) -> None:
        """Closes the folder."""
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1

    def __enter__(self) -> PictureFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def is_picture(start: bytes) -> bool:
    """Whether a file that begins so is a picture that pagecheck made."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"tEXtSoftware\0" + drawing.GENERATOR.encode() in start
    generator = f'<meta name="generator" content="{page.GENERATOR}">'
    return start.startswith(b"<!DOCTYPE html>") and generator.encode() in start


def form_of(path: str) -> str:
    """The form that the name of a picture asks for: "png" or "html".

    Raises:
        UsageError: neither.
    """
    for ending, form in ((".png", "png"), (".html", "html"), (".htm", "html")):
        if path.lower().endswith(ending):
            return form
    raise UsageError(f"{printable(path)}: is neither NAME.png nor NAME.html")
