"""`--out DIR`: what a survey has answered, kept whatever ends it, and its tables once it is whole.

Danger: hours of work lost by a kill; a table of half a survey that looks whole; rows of a file that
is another one by now; foreign files replaced. Decision: each row is appended to a journal as it
comes, and read back by `--resume`; CSV and Parquet are written when all rows are there, under a
temporary name, synced, and renamed. A folder is ours where its journal identifies itself, and
belongs to one survey at a time by a lock on it. An unfinished survey is continued or removed by
the user, never overwritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.errors import OutputError, UsageError
from pagecheck.printable import printable
from pagecheck.report.publish import new_name, refusals, sync
from pagecheck.snapshot.outside import require_in_no_snapshot
from pagecheck.survey.tables import csv_bytes, parquet_bytes
from pagecheck.survey.values import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.survey.values import Options, Target

JOURNAL: Final = "survey.jsonl"
CSV: Final = "survey.csv"
PARQUET: Final = "survey.parquet"
VERSION: Final = 1
SYNC_S: Final = 5.0
_PREFIX: Final = ".pagecheck-survey-"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAGIC: Final = "pagecheck-survey"


class Journal:
    """The folder of a survey's results; a context manager that closes it.

    Attributes:
        key: device and inode of the folder.
        rows: what an earlier survey has answered, by path.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        options: Options,
        *,
        resume: bool,
        with_parquet: bool,
    ) -> None:
        """Makes the folder, and takes it.

        Args:
            resume: rows that are there are used again.
            with_parquet: `finish` writes Parquet as well.

        Raises:
            OutputError: it cannot be written, or has files of somebody else's.
            UsageError: the survey there is not finished, or was made with other options.
        """
        self._path = os.fspath(out)
        self._with_parquet = with_parquet
        self._folder = self._fd = -1
        self._synced_s = clock.now_s()
        self.rows: dict[str, Row] = {}
        try:
            with refusals(self._path):
                require_in_no_snapshot(self._path)
                os.makedirs(self._path, exist_ok=True)
                self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                status = os.fstat(self._folder)
                self.key = (status.st_dev, status.st_ino)
                self._open_journal()
                self._begin(_made_with(options), resume=resume)
                self._remove_leftovers()
        except BaseException:
            self.close()
            raise

    def _open_journal(self) -> None:
        is_new = not self._is_there(JOURNAL)
        for name in (CSV, PARQUET):
            if is_new and self._is_there(name):
                raise self._foreign(name)
        self._fd = os.open(JOURNAL, _FLAGS, 0o666, dir_fd=self._folder)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise self._foreign(JOURNAL)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self._where(JOURNAL)}: another survey writes it; wait for its end, or name "
                "another folder"
            ) from None

    def _begin(self, made_with: dict[str, Any], *, resume: bool) -> None:
        """Reads what an earlier survey left, or starts anew."""
        size = os.fstat(self._fd).st_size
        if size:
            finished = self._read(made_with if resume else None)
            if not resume and not finished:
                raise UsageError(
                    f"{printable(self._path)}: has a survey that is not finished; add --resume to "
                    f"continue it, or remove {JOURNAL} there"
                )
        if not resume or not size:
            self.rows.clear()
            os.ftruncate(self._fd, 0)
            self._write({_MAGIC: VERSION, **made_with})

    def _read(self, made_with: dict[str, Any] | None) -> bool:
        """Reads the journal, and cuts off a line that was not written to its end.

        Args:
            made_with: how its survey must have been made; None: it does not matter.

        Returns:
            Whether it was finished.
        """
        finished, end = False, 0
        with open(os.dup(self._fd), "rb") as lines:
            lines.seek(0)
            for number, line in enumerate(lines):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                found = _loaded(line)
                if number == 0:
                    self._require_ours(found, made_with)
                    continue
                finished = found is not None and found.get("finished") is True
                row = None if finished or found is None else _row(found)
                if row is not None:
                    self.rows[row.path] = row
        if not end:
            raise self._foreign(JOURNAL)
        if made_with is not None:
            os.ftruncate(self._fd, end)
        return finished

    def _require_ours(self, head: dict[str, Any] | None, made_with: dict[str, Any] | None) -> None:
        if head is None or head.pop(_MAGIC, None) != VERSION:
            raise self._foreign(JOURNAL)
        if made_with is not None and head != made_with:
            raise UsageError(
                f"{printable(self._path)}: its survey was made with other options ({_told(head)}); "
                "resume it with these, or name another folder"
            )

    def answered(self, target: Target) -> Row | None:
        """The row that an earlier survey has for a target, if it still holds."""
        row = self.rows.get(target.path)
        return row if row is not None and row.holds_for(target) else None

    def add(self, row: Row) -> None:
        """Keeps a row.

        Raises:
            OutputError: it cannot be written.
        """
        with refusals(self._path):
            self._write(row._asdict())
            if clock.now_s() - self._synced_s >= SYNC_S:
                os.fdatasync(self._fd)
                self._synced_s = clock.now_s()

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        end = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, end)  # half a line is none
            raise

    def finish(self, rows: Sequence[Row]) -> None:
        """Writes the tables.

        Args:
            rows: all of them, in the order in which they are wanted.

        Raises:
            OutputError: that is not possible; tables of an earlier survey are left then.
        """
        with refusals(self._path):
            os.fsync(self._fd)
            self._replace(CSV, csv_bytes(rows))
            if self._with_parquet:
                self._replace(PARQUET, parquet_bytes(rows))
            else:  # an earlier survey's does not belong to this one
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(PARQUET, dir_fd=self._folder)
            sync(self._folder)
            self._write({"finished": True})

    def _replace(self, name: str, data: bytes) -> None:
        temporary = new_name(_PREFIX)
        fd = os.open(temporary, _NEW, 0o666, dir_fd=self._folder)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._folder)
            raise

    def _remove_leftovers(self) -> None:
        """What a survey that was killed left; the lock says that none is at work."""
        for name in os.listdir(self._folder):
            if name.startswith(_PREFIX):
                os.unlink(name, dir_fd=self._folder)

    def _is_there(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _where(self, name: str) -> str:
        return printable(os.path.join(self._path, name))

    def _foreign(self, name: str) -> OutputError:
        return OutputError(
            f"{self._where(name)}: is not of a survey, and is left as it is; name another folder, "
            "or move it away"
        )

    def close(self) -> None:
        """Closes it; what was added stays."""
        for fd in (self._fd, self._folder):
            if fd >= 0:
                os.close(fd)
        self._fd = self._folder = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def read_rows(folder: str) -> dict[str, Row]:
    """The rows that a survey has kept in its folder, by path; nothing is written there.

    Raises:
        UsageError: it has no survey.
    """
    place = os.path.join(folder, JOURNAL)
    found: dict[str, Row] = {}
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as lines:
            head = _loaded(lines.readline()) if stat.S_ISREG(os.fstat(fd).st_mode) else None
            if head is None or head.get(_MAGIC) != VERSION:
                raise UsageError(f"{printable(place)}: is not the journal of a survey")
            for line in lines:
                loaded = _loaded(line)
                row = None if loaded is None else _row(loaded)
                if row is not None:
                    found[row.path] = row
    except OSError as error:
        raise UsageError(f"{printable(place)}: cannot be read: {error.strerror}") from error
    return found


def _made_with(options: Options) -> dict[str, Any]:
    """The options that what is answered depends on."""
    return {
        "page_size": options.page_size,
        "holes": options.holes,
        "format": options.format,
        "reads": options.engine != "none",
    }


def _told(head: dict[str, Any]) -> str:
    return ", ".join(f"{printable(str(k))} {printable(str(v))}" for k, v in head.items())[:200]


def _loaded(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_TEXTS: Final = ("path", "error", "kind", "identity", "note", "picture")


def _row(found: dict[str, Any]) -> Row | None:
    """The row of a line; None where it is none."""
    if found.keys() != set(Row._fields):
        return None
    for name, value in found.items():
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        optional = value is None and name not in ("path", "bytes", "pages")
        if not (optional or (isinstance(value, str) if name in _TEXTS else numeric)):
            return None
    return Row(**found)
