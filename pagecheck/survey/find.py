"""The memory files below the paths that a user gives.

Danger: a folder may hold pipes that block whoever opens them, links that lead out of it or around
in circles, and files that are found twice. Decision: nothing but folders and manifests is opened
here; a link is followed where the user named it, not where a folder has it; a file of several names
is taken once, as du(1) does. Of a folder every regular file is taken: what holds no RAM is a row
that says so. What lies on a file system that may never answer is left to others, by the mount table
alone.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from pagecheck.errors import PagecheckError
from pagecheck.shm import mounts
from pagecheck.shm.hints import of_error, of_kind
from pagecheck.snapshot.directory import MARKER
from pagecheck.survey import saved
from pagecheck.survey.urls import is_url, local_path
from pagecheck.survey.values import Target, identity_of, one_line, row_of_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from pagecheck.survey.values import Row

_GLOB: Final = re.compile(r"[*?[]")
# What is mounted in a folder and has no files of anybody's.
_KERNEL: Final = frozenset(
    [
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs"),
        *("selinuxfs", "sysfs", "tracefs"),
    ]
)


def find(
    paths: Sequence[str],
    *,
    leave_out: Collection[tuple[int, int]] = (),
    on_far: Callable[[str, str], None] | None = None,
) -> Iterator[Target | Row]:
    """The memory files below the paths, each once.

    Args:
        paths: files, folders, directories of snapshots, patterns (`*`, `?`, `[`) and URLs.
        leave_out: device and inode of folders that are not looked into.
        on_far: called with each path on a file system that may stall, and its kind, in the place
            of looking there; None: it is looked at.

    Yields:
        In the order of the paths, those of a folder by name; a Row for what has none but an error.
    """
    yield from _Search(leave_out, on_far).paths(paths)


class _Search:
    def __init__(
        self,
        leave_out: Collection[tuple[int, int]],
        on_far: Callable[[str, str], None] | None,
    ) -> None:
        self._leave_out = leave_out
        self._on_far = on_far
        self._mounts = mounts.read()
        self._kinds = {each.point: each.kind for each in self._mounts}
        self._paths: set[str] = set()
        self._linked: set[tuple[int, int]] = set()

    def paths(self, paths: Sequence[str]) -> Iterator[Target | Row]:
        for path in map(local_path, paths):
            if is_url(path):
                from pagecheck.survey import stores

                yield from (each for each in stores.targets(path) if self._is_new(each.path))
                continue
            if not path:
                yield row_of_error(path, "is an empty path")
                continue
            path = os.path.abspath(path)
            if self._on_far is not None and self._is_far(path, self._kind(path)):
                continue
            for each in _matches(path):
                yield from self._named(each)

    def _is_far(self, path: str, kind: str | None) -> bool:
        """Whether a path is left to others, which are told of it."""
        if kind is None or self._on_far is None:
            return False
        if self._is_new(path):
            self._on_far(path, kind)
        return True

    def _kind(self, path: str) -> str | None:
        """The kind of a file system that may stall and that a path, or a pattern, leads to."""
        folder = _fixed(path)
        kind = mounts.may_stall(folder, self._mounts)
        if kind is not None or folder == path:
            return kind
        parts = path[len(folder) :].strip("/").split("/")
        return next(self._kinds_below(folder, os.path.realpath(folder), parts), None)

    def _kinds_below(self, folder: str, real: str, parts: list[str]) -> Iterator[str]:
        """The kinds of those that a pattern below a folder leads to.

        Args:
            real: the folder's path without links.
            parts: the pattern, by folder.
        """
        import glob

        part, *rest = parts
        names = glob.glob(part, root_dir=folder) if _GLOB.search(part) else [part]
        for name in names:
            path, here = os.path.join(folder, name), os.path.join(real, name)
            is_link = os.path.islink(path)
            if here in self._kinds or is_link:
                kind = mounts.may_stall(path, self._mounts)
                if kind is not None:
                    yield kind
                    continue
                here = os.path.realpath(path)
            for more in (parts, rest) if part == "**" and not is_link else (rest,):
                if more:
                    yield from self._kinds_below(path, here, more)

    def _is_new(self, path: str) -> bool:
        if path in self._paths:
            return False
        self._paths.add(path)
        return True

    def _named(self, path: str) -> Iterator[Target | Row]:
        """What a user named."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            if self._is_new(path):
                yield row_of_error(path, _why_not(path, error))
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._folder(path)
        elif self._is_new(path):
            if stat.S_ISREG(status.st_mode):
                yield from self._file(path, status)
            else:
                yield row_of_error(path, of_kind(path, status.st_mode))

    def _mounted(self, path: str) -> str | None:
        """The kind of the file system that is mounted there, if it may stall."""
        kind = self._kinds.get(path)
        return None if kind in mounts.NEVER_STALL else kind

    def _file(self, path: str, status: os.stat_result) -> Iterator[Target]:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            if key in self._linked:
                return
            self._linked.add(key)
        size, allocated = status.st_size, status.st_blocks * 512
        yield Target(path, "file", size, allocated, identity_of(status))

    def _folder(self, top: str) -> Iterator[Target | Row]:
        """Everything below a folder, by name."""
        real, todo = os.path.realpath(top), [top]
        while todo:
            path = todo.pop()
            kind = self._mounted(f"{real}{path.removeprefix(top)}") if path != top else None
            if kind in _KERNEL or self._is_far(path, kind) or not self._is_new(path):
                continue
            try:
                status = os.lstat(path) if path != top else os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    yield from self._file(path, status)
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if (status.st_dev, status.st_ino) in self._leave_out:
                    continue
                if saved.is_one(path):
                    yield saved.target(path)
                    continue
                with os.scandir(path) as entries:
                    names = [each.name for each in entries if _may_count(each)]
                if MARKER in names:  # a save is at work there, or was killed
                    continue
            except PagecheckError as error:
                yield row_of_error(path, one_line(error, path))
            except OSError as error:
                yield row_of_error(path, _why_not(path, error))
            else:
                todo += [os.path.join(path, name) for name in sorted(names, reverse=True)]


def _may_count(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file or a folder; the kernel tells without being asked again."""
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def _fixed(path: str) -> str:
    """The folder in which a pattern begins to be one; of any other path, itself."""
    found = _GLOB.search(path)
    return path if found is None else os.path.dirname(path[: found.start()])


def _matches(path: str) -> list[str]:
    """What a pattern stands for; a path that is there, or no pattern, for itself."""
    if not _GLOB.search(path) or os.path.lexists(path):
        return [path]
    return sorted(set(_expanded(path))) or [path]


def _expanded(pattern: str) -> Iterator[str]:
    """As glob(7) and bash's globstar: `**` goes through no link, which may lead around in circles;
    and a folder stands for all that is below it.
    """
    import glob

    head, deep, tail = pattern.removesuffix("/**").partition("/**/")
    if not deep:
        yield from glob.iglob(head or "/")
        return
    for top in glob.iglob(head or "/"):
        for folder, folders, _files in os.walk(top):
            folders[:] = [each for each in folders if not each.startswith(".")]
            yield from _expanded(os.path.join(glob.escape(folder), tail))


def _why_not(path: str, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    more = of_error(path, error)
    why = error.strerror or str(error)
    return f"cannot be looked at: {why}" + (f"; {more}" if more else "")
