"""Nothing else is made in the directory of a snapshot.

Danger: with a file more it does not verify any more. Decision: who makes a file looks at the
folders around it first.
"""

from __future__ import annotations

import contextlib
import os
import stat

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.snapshot.values import MANIFEST

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

_MANIFEST_START_BYTES: Final = 100  # where its checksum is


def require_outside(path: str, directory: str | os.PathLike[str]) -> None:
    """Refuses to make something in a snapshot: with a file more it does not verify any more.

    Args:
        path: of what is going to be made; it need not be there.
        directory: the snapshot's.

    Raises:
        OutputError: it is in there.
    """
    at = os.path.realpath(path)
    while at != (at := os.path.dirname(at)):
        with contextlib.suppress(OSError):  # whoever makes it says why it cannot be made
            if os.path.samefile(at, directory):
                raise _in_a_snapshot(path)


def require_no_snapshot(folder: int, path: str) -> None:
    """Refuses to make something right in the directory of a snapshot, of whichever.

    Args:
        folder: descriptor of the directory.
        path: of what is going to be made there.

    Raises:
        OutputError: it is one.
        OSError: that cannot be found out.
    """
    if is_snapshot(folder):
        raise _in_a_snapshot(path)


def require_in_no_snapshot(path: str) -> None:
    """The same for every snapshot.

    Raises:
        OutputError: it is in the directory of one.
    """
    at, below = os.path.realpath(path), ""
    while at != below:
        with contextlib.suppress(OSError):  # as above
            folder = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if is_snapshot(folder):
                    raise _in_a_snapshot(path)
            finally:
                os.close(folder)
        at, below = os.path.dirname(at), at


def _in_a_snapshot(path: str) -> OutputError:
    return OutputError(
        f"{printable(path)}: is in the directory of a snapshot, which must stay as it is; choose a "
        "name outside it"
    )


def is_snapshot(folder: int) -> bool:
    """Whether there is a manifest in a directory; one that we may not read is none of ours.

    Raises:
        OSError: that cannot be found out.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if not stat.S_ISREG(os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        fd = os.open(MANIFEST, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            return b'"xxh3-128:' in os.read(fd, _MANIFEST_START_BYTES)
        finally:
            os.close(fd)
    return False
