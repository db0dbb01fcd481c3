"""The operations on files that a new directory makes, at the lowest seam: counted, failed, or
recorded for a power cut."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pagecheck.report import publish
from pagecheck.snapshot import directory

NAMES = ("mkdir", "open", "chmod", "fchmod", "write", "fsync", "unlink", "rmdir")
MOVE = "rename"


def wrap(
    monkeypatch: pytest.MonkeyPatch,
    around: Callable[[str, Callable[[], Any], tuple[Any, ...]], Any],
) -> None:
    """Has every operation done by `around(name, do, arguments)`."""

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return around(name, lambda: real(*arguments, **options), arguments)

        return call

    for name in NAMES:
        monkeypatch.setattr(directory.os, name, wrapped(name, getattr(os, name)))
    monkeypatch.setattr(publish, "_rename_no_replace", wrapped(MOVE, publish._rename_no_replace))


class Operation(NamedTuple):
    """One change: of a folder's entry, or of a file's content; or a sync of either.

    Attributes:
        inode: of the folder or the file.
        kind: "entry", "content", "sync".
        name: of the entry that appears or vanishes.
        target: inode that the entry is of; None: it vanishes.
        old: name that a rename takes away.
    """

    inode: int
    kind: str
    name: str = ""
    target: int | None = None
    old: str = ""


class Recorder:
    """Does the operations, and keeps them in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Operation] = []
        wrap(monkeypatch, self._around)

    def _around(self, name: str, do: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        before = _identities()
        result = do()
        if name == "write":
            self.log.append(Operation(os.fstat(arguments[0]).st_ino, "content"))
        elif name == "fsync":
            self.log.append(Operation(os.fstat(arguments[0]).st_ino, "sync"))
        elif name == MOVE:
            folder, old, new = arguments
            target = os.stat(new, dir_fd=folder).st_ino
            self.log.append(Operation(os.fstat(folder).st_ino, "entry", new, target, old))
        else:
            self._entries(before)
        return result

    def _entries(self, before: dict[int, dict[str, int]]) -> None:
        """What appeared or vanished in a folder that is watched."""
        for folder, entries in _identities().items():
            then = before.get(folder, {})
            for name in entries.keys() ^ then.keys():
                self.log.append(Operation(folder, "entry", name, entries.get(name)))


watched: list[Path] = []


def _identities() -> dict[int, dict[str, int]]:
    """By folder the inode of each entry, of the watched folder and those in it."""
    found = {}
    for top in watched:
        for path in (top, *(each for each in top.iterdir() if each.is_dir())):
            entries = {each.name: each.stat().st_ino for each in path.iterdir()}
            found[path.stat().st_ino] = entries
    return found


class Disk(NamedTuple):
    """What a disk may hold after a power cut.

    Attributes:
        entries: by folder, the inode of each entry.
        synced: files whose content is all there; that of others may be anything.
    """

    entries: dict[int, dict[str, int]]
    synced: frozenset[int]


def after_power_cuts(log: list[Operation]) -> Iterator[Disk]:
    """Every state that a disk may be in after a power cut at any point of the log: what was synced
    is there, and any part of the rest."""
    for length in range(len(log) + 1):
        done = log[:length]
        loose = [at for at, each in enumerate(done) if each.kind == "entry" and not _kept(done, at)]
        content = {each.inode for each in done if each.kind == "content"}
        unsynced = {
            each.inode
            for at, each in enumerate(done)
            if each.kind == "content" and not _kept(done, at)
        }
        for lost in itertools.chain.from_iterable(
            itertools.combinations(loose, count) for count in range(len(loose) + 1)
        ):
            entries: dict[int, dict[str, int]] = {}
            for at, each in enumerate(done):
                if each.kind == "entry" and at not in lost:
                    _apply(entries.setdefault(each.inode, {}), each)
            yield Disk(entries, frozenset(content - unsynced))


def _kept(done: list[Operation], at: int) -> bool:
    """Whether what was done there has been synced since."""
    return any(each.kind == "sync" and each.inode == done[at].inode for each in done[at:])


def _apply(entries: dict[str, int], operation: Operation) -> None:
    if operation.old:
        entries.pop(operation.old, None)
    if operation.target is None:
        entries.pop(operation.name, None)
    else:
        entries[operation.name] = operation.target
