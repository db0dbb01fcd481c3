"""A snapshot whose every byte was verified, open: what is used afterwards are the same files.

Danger: a file that is opened again by its name may be another one by then, and one that is open may
be written to. Decision: each file is opened once; verification and all that follows read through
that descriptor, and at the end its times must be as at the beginning.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pagecheck.errors import SnapshotError
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.verify import verify_in

if TYPE_CHECKING:
    from pagecheck.snapshot.values import Snapshot
    from pagecheck.snapshot.verify import Also

Progress = Callable[[int, int], None]


class HeldFolder(Folder):
    """A directory whose files are opened once each, and stay open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """As of `Folder`."""
        self._held: dict[str, int] = {}
        self._times: dict[str, tuple[int, int, int]] = {}
        super().__init__(path)

    def held(self, name: str) -> int:
        """The descriptor of a file, which stays this object's."""
        if name not in self._held:
            self._held[name] = fd = super().open(name)
            self._times[name] = _times(fd)
        return self._held[name]

    def open(self, name: str) -> int:
        """As of `Folder`: another descriptor of the same open file."""
        return os.dup(self.held(name))

    def require_unchanged(self) -> None:
        """Checks that no file was written to since it was opened.

        Raises:
            SnapshotError: one was.
        """
        for name, fd in self._held.items():
            if _times(fd) != self._times[name]:
                raise SnapshotError(
                    f"{self.path_of(name)}: was changed after it was verified; nothing is "
                    "started from it"
                )

    @contextlib.contextmanager
    def changes_explain_errors(self) -> Iterator[None]:
        """Where the block fails and a file was written to, such as cut, that is what is raised."""
        try:
            yield
        except Exception:
            self.require_unchanged()
            raise

    def close(self) -> None:
        """Closes it and all files."""
        held, self._held = self._held, {}
        for fd in held.values():
            os.close(fd)
        super().close()


def _times(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class VerifiedSnapshot:
    """A context manager that closes the files.

    Attributes:
        snapshot: the manifest's values.
        folder: the directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        threads: int | None = None,
        also: Also | None = None,
        max_rate: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Verifies every byte.

        Args:
            threads: at most; None: one per CPU.
            also: is given the content on the way, as of `verify_in`.
            max_rate: bytes of RAM per second that may be read.
            progress: called with (bytes done, bytes in total) now and then.

        Raises:
            SnapshotError: the snapshot is not whole; the text names the file, and where.
        """
        self.folder = HeldFolder(directory)
        try:
            self.snapshot: Snapshot = verify_in(
                self.folder, threads=threads, also=also, max_rate=max_rate, progress=progress
            ).snapshot
        except BaseException:
            self.folder.close()
            raise

    def close(self) -> None:
        """Closes the files."""
        self.folder.close()

    def __enter__(self) -> VerifiedSnapshot:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
