"""`--out DIR`: bitmap files and the report, all of them or none, and no foreign file is lost.

`NAME.zero`, `NAME.normal` and, for a diff, `NAME.unchanged` hold little-endian 64-bit words, bit
i % 64 of word i / 64 is page i, padding bits 0. NAME is the block's name, percent-encoded.

Facts: several files cannot appear at once. Danger: a folder may hold files of these names that are
a guest's RAM or another tool's. Decision: the folder is checked before any work is done; only
what `ledger.py` identifies as ours is replaced; new files are written and synced without a name and
then published one after the other, the report last, so that a set with a report is complete; a
failure in between restores the old files. After a kill in those microseconds a file
`.pagecheck-unfinished-...` shows the next run which files are ours.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pagecheck.child.signals import signals_held
from pagecheck.errors import OutputError
from pagecheck.model import Kind
from pagecheck.report.ledger import (
    REPORT,
    REPORT_BYTES_MAX,
    UNFINISHED,
    Files,
    entry_of,
    is_as_listed,
    listed,
    read_regular,
    sealed,
)
from pagecheck.report.publish import PREFIX, Draft, lstat, move, new_name, sync
from pagecheck.report.report import BlockReport, Report
from pagecheck.shortage import explain, is_limit, refused

KINDS: Final = ("zero", "normal", "unchanged")
NAME_MAX: Final = 255
_SUFFIXES: Final = tuple(f".{kind}" for kind in KINDS)

_OTHERS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Output:
    """The results' folder; a context manager that removes what it created where nothing was
    written."""

    def __init__(
        self, out: str | os.PathLike[str], blocks: Iterable[str], kind: Kind, sources: Iterable[str]
    ) -> None:
        """Creates the folder and checks that results can be written there, before any work is done.

        Args:
            blocks: their names.
            sources: paths to what is scanned: no result may take its place.

        Raises:
            OutputError: files cannot be created there, or a name is taken by a foreign file.
        """
        self._path = Path(out)
        self._names = [_file_name(each, of) for each in blocks for of in _kinds(kind)]
        _require_short(self._path, self._names)
        self._made: list[Path] = []
        self._known: Files = {}
        self._written = False
        self._folder = -1
        try:
            with _refusals(self._path):
                self._open()
                Draft(self._folder).close()
            self._learn()
            for name in (REPORT, *self._names):
                self._require_free(name, list(sources))
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        missing = [self._path, *self._path.parents]
        missing = [each for each in missing if not os.path.lexists(each)]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each)
                self._made.append(each)
        self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _learn(self) -> None:
        """Finds which files here are ours."""
        self._unfinished = [n for n in os.listdir(self._folder) if n.startswith(UNFINISHED)]
        for name in (REPORT, *self._unfinished):
            text = read_regular(self._folder, name, REPORT_BYTES_MAX)
            files = None if text is None else listed(text)
            if text is not None and files is not None:
                for each, entries in {**files, name: {entry_of(text)}}.items():
                    self._known.setdefault(each, set()).update(entries)

    def _require_free(self, name: str, sources: list[str]) -> None:
        path = self._path / name
        try:
            st = lstat(self._folder, name)
        except FileNotFoundError:
            return
        for source in sources:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), os.stat(source)):
                    raise OutputError(f"{path}: is the source itself; choose another folder")
        if not stat.S_ISREG(st.st_mode):
            what = _OTHERS.get(stat.S_IFMT(st.st_mode), "not a regular file")
            raise OutputError(
                f"{path}: is {what}, where a result would be written; choose another folder, or "
                "move it away"
            )
        if not is_as_listed(self._folder, name, self._known.get(name, ())):
            raise OutputError(
                f"{path}: exists, and is not (or no longer) as pagecheck wrote it; it is left "
                "as it is: choose another folder, or move it away"
            )

    def write(self, report: Report) -> Report:
        """Writes the bitmaps of every block, and the report that names them.

        Returns:
            The report with `files` filled in.

        Raises:
            OutputError: that cannot be done; the folder is as it was.
        """
        report = report.with_blocks(tuple(self._named(block) for block in report.blocks))
        contents = {
            _file_name(block.block.name, kind): words
            for block in report.blocks
            for kind, words in _bitmaps(block).items()
        }
        new = {name: {entry_of(words)} for name, words in contents.items()}
        text = sealed(report.to_json(), {**self._others(), **new})
        new[REPORT] = {entry_of(text)}
        every = {name: self._known.get(name, set()) | new.get(name, set()) for name in self._known}
        journal = sealed({}, {**new, **every})
        with contextlib.ExitStack() as drafts, _refusals(self._path):
            unfinished = new_name(UNFINISHED)
            all_of_them: dict[str, bytes | memoryview]
            all_of_them = {unfinished: journal, **contents, REPORT: text}
            made = {name: self._draft(drafts, name, data) for name, data in all_of_them.items()}
            with signals_held():
                self._publish(unfinished, made)
        self._written = True
        return report

    def _others(self) -> Files:
        """Our existing bitmaps, also of other blocks: the new report keeps listing them."""
        found = {n: entries for n, entries in self._known.items() if n.endswith(_SUFFIXES)}
        one_each = {
            name: {each for each in entries if is_as_listed(self._folder, name, {each})}
            for name, entries in found.items()
        }
        return {name: entries for name, entries in one_each.items() if entries}

    def _named(self, block: BlockReport) -> BlockReport:
        names = {kind: _file_name(block.block.name, kind) for kind in _bitmaps(block)}
        return block._replace(files={kind: str(self._path / n) for kind, n in names.items()})

    def _draft(self, drafts: contextlib.ExitStack, name: str, data: bytes | memoryview) -> Draft:
        with _refusals(self._path / name):
            draft = drafts.enter_context(Draft(self._folder))
            draft.write(data)
        return draft

    def _publish(self, unfinished: str, drafts: dict[str, Draft]) -> None:
        """Publishes the files; what they replace is set aside until all are published."""
        aside: dict[str, str] = {}
        try:
            with _refusals(self._path):
                drafts[unfinished].publish(unfinished)
            # The report is removed first and published last: where it exists, its files do.
            for name in (REPORT, *self._replaced(drafts)):
                self._put_aside(name, aside)
            for name, draft in drafts.items():
                if name != unfinished:
                    with _refusals(self._path / name):
                        draft.publish(name)
            sync(self._folder)
        except BaseException:
            self._undo(drafts, aside)
            raise
        self._remove(aside.values())
        if self._unfinished:
            self._remove_leftovers()
        self._remove([unfinished])

    def _replaced(self, drafts: dict[str, Draft]) -> list[str]:
        """Bitmaps that the new ones replace: those of the same names, and those that an earlier
        scan of another kind left beside them."""
        blocks = {name.rpartition(".")[0] for name in drafts if name.endswith(_SUFFIXES)}
        known = [name for name in self._known if name.endswith(_SUFFIXES)]
        return [name for name in known if name.rpartition(".")[0] in blocks]

    def _put_aside(self, name: str, aside: dict[str, str]) -> None:
        """Sets a file aside, if it still is the one that was identified as ours."""
        place = new_name()
        with _refusals(self._path / name):
            try:
                move(self._folder, name, place)
            except FileNotFoundError:
                return
            aside[name] = place
        if not is_as_listed(self._folder, place, self._known.get(name, ())):
            raise OutputError(
                f"{self._path / name}: was put there or changed meanwhile; it is left as it is: "
                "choose another folder"
            )

    def _undo(self, drafts: dict[str, Draft], aside: dict[str, str]) -> None:
        there = [name for name, draft in drafts.items() if draft.is_at(name)]
        unfinished = [name for name in there if name.startswith(UNFINISHED)]
        self._remove(name for name in there if name not in unfinished)
        for name, place in aside.items():
            with contextlib.suppress(OSError):  # a new file of its name stays; it stays set aside
                move(self._folder, place, name)
        self._remove(unfinished)

    def _remove_leftovers(self) -> None:
        """Files that a killed run had set aside: ours, under one of our names."""
        for name in os.listdir(self._folder):
            if name.startswith(PREFIX):
                every = {each for entries in self._known.values() for each in entries}
                if is_as_listed(self._folder, name, every):
                    self._remove([name])

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def close(self) -> None:
        """Closes the folder; created folders that stayed empty are removed."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        if not self._written:
            for each in reversed(self._made):
                with contextlib.suppress(OSError):
                    os.rmdir(each)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _kinds(kind: Kind) -> tuple[str, ...]:
    return KINDS if kind == "diff" else KINDS[:2]


def _file_name(block: str, kind: str) -> str:
    return f"{quote(os.fsencode(block), safe='')}.{kind}"


def _bitmaps(block: BlockReport) -> dict[str, memoryview]:
    words = {"zero": block.zero, "normal": block.normal, "unchanged": block.unchanged}
    return {kind: each for kind, each in words.items() if each is not None}


def _require_short(folder: Path, names: list[str]) -> None:
    for name in names:
        if len(name) > NAME_MAX:
            raise OutputError(f"{folder}: the block's name is too long for a file name: {name}")


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """The file system's error as one about the file or folder."""
    try:
        yield
    except OSError as error:
        if is_limit(error):
            raise refused(f"{path}: cannot write there", error) from error
        raise OutputError(f"{path}: cannot write there: {_why(path, error)}") from error


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "something of that name appeared meanwhile; it is left as it is"
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            st = os.lstat(each)
            if stat.S_ISLNK(st.st_mode) and not os.path.exists(each):
                return f"{each} is a dangling symbolic link"
            if not stat.S_ISDIR(os.stat(each).st_mode) and isinstance(error, NotADirectoryError):
                return f"{each} is not a folder; --out names one, for NAME.zero and report.json"
    return explain(error) or error.strerror or str(error)
