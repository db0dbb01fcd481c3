"""The objects that a URL stands for: one, those below a prefix, those that a pattern matches.

A prefix with the manifest of a snapshot is one row, as the directory that `save` made is: what its
manifest says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pagecheck.errors import EngineError, PagecheckError, SourceError
from pagecheck.snapshot.values import MANIFEST
from pagecheck.survey.stores.asking import ask, several
from pagecheck.survey.stores.manifests import read_manifest
from pagecheck.survey.stores.opening import open_store
from pagecheck.survey.stores.patience import LISTING, Patience
from pagecheck.survey.stores.store import Store
from pagecheck.survey.urls import WEB, is_glob, shown
from pagecheck.survey.values import Address, Row, Target, one_line, row_of_error

Info = Mapping[str, Any]

AT_ONCE: Final = 32
DEPTH_MAX: Final = 20  # of pages of links, which may lead around in circles
SIZE_MAX: Final = 1 << 50  # a store may claim anything, and what it claims is cut into pieces


def targets(url: str, patience: Patience = LISTING) -> Iterator[Target | Row]:
    """The objects that a URL stands for, by name; a Row for what has none but an error.

    Args:
        patience: how long a store that does not answer is asked again.

    Raises:
        EngineError: a package is missing.
    """
    try:
        listing = _Listing(open_store(url), url, patience)
        found = listing.found()
    except EngineError:
        raise
    except PagecheckError as error:
        yield row_of_error(shown(url), one_line(error, shown(url)))
        return
    yield from listing.targets(found)


class _Listing:
    def __init__(self, store: Store, url: str, patience: Patience) -> None:
        self.store = store
        self.url = url
        self.patience = patience

    def found(self) -> dict[str, Info]:
        """What the store says of each object, by name.

        Raises:
            SourceError: there is none, or the store does not say.
        """
        name = self.store.name_of(self.url)
        if is_glob(self.url):
            found = self._literally(name) or self._matches(name)
        elif self.store.scheme in WEB and not name.partition("?")[0].endswith("/"):
            found = {name: self._info(name)}
        elif not name.endswith("/") and (info := self._info(name))["type"] == "file":
            found = {name: info}
        else:
            found = self._below(name)
        if not found:
            raise SourceError(f"{shown(self.url)}: there is no object")
        return found

    def _literally(self, name: str) -> dict[str, Info]:
        """The object whose very name looks like a pattern, if there is one."""
        with contextlib.suppress(SourceError):
            info = self._info(name)
            if info["type"] == "file" and self.store.scheme not in WEB:
                return {name: info}
        return {}

    def _info(self, name: str) -> Info:
        return ask(shown(self.url), lambda: self.store.info(name), self.patience)

    def _below(self, name: str) -> dict[str, Info]:
        options = {"maxdepth": DEPTH_MAX} if self.store.scheme in WEB else {}

        def request() -> Any:
            return self.store.call("find", name, detail=True, **options)

        return self._objects_of(ask(shown(self.url), request, self.patience))

    def _objects_of(self, found: dict[str, Info]) -> dict[str, Info]:
        """Without the links by which a page of links can be sorted."""
        if self.store.scheme not in WEB:
            return found
        return {name: info for name, info in found.items() if not {"?", "#"} & set(name)}

    def _matches(self, name: str) -> dict[str, Info]:
        def request() -> Any:
            return self.store.call("glob", name, detail=True)

        found: dict[str, Info] = {}
        for each, info in self._objects_of(ask(shown(self.url), request, self.patience)).items():
            found |= self._below(each) if info["type"] == "directory" else {each: info}
        return found

    def targets(self, found: dict[str, Info]) -> Iterator[Target | Row]:
        """What becomes of each object that was found, by name."""
        folders = {f"{name.rpartition('/')[0]}/" for name in found if not name.endswith(MANIFEST)}
        manifests = [name for name in sorted(found) if _manifest_folder(name) in folders]
        snapshots = {
            _manifest_folder(name): snapshot
            for name, snapshot in self._each(manifests, self._snapshot, found)
            if snapshot is not None
        }
        yield from snapshots.values()
        inside = tuple(snapshots)
        names = [name for name in sorted(found) if not name.startswith(inside)]
        for _name, target in self._each(names, self._object, found):
            if target is not None:
                yield target

    def _each(
        self,
        names: list[str],
        what: Callable[[str, Info], Target | Row | None],
        found: dict[str, Info],
    ) -> Iterator[tuple[str, Target | Row | None]]:
        """A few at once; those that fail are rows with their error."""

        def one(name: str) -> Target | Row | None:
            path = self._path(name)
            try:
                info = found[name]
                if info.get("size") is None:
                    info = ask(path, lambda: self.store.info(name), self.patience)
                return what(name, info)
            except PagecheckError as error:
                return row_of_error(path, one_line(error, path))

        for number in range(0, len(names), AT_ONCE):
            batch = names[number : number + AT_ONCE]
            yield from zip(batch, several(one, batch), strict=True)

    def _path(self, name: str) -> str:
        return shown(self.store.url_of(name))

    def _object(self, name: str, info: Info) -> Target | Row | None:
        path, url, size = self._path(name), self.store.url_of(name), info["size"]
        if info.get("type") == "directory" or (size == 0 and name.endswith("/")):
            return None
        if size <= 0:
            return row_of_error(path, "is empty")
        if size > SIZE_MAX:
            return row_of_error(path, f"is said to have {size} bytes, more than a survey takes")
        address = None if path == url else Address(url)
        return Target(path, "object", size, None, self.store.identity_of(info), address)

    def _snapshot(self, name: str, info: Info) -> Target | None:
        """None where the manifest is another program's."""
        path, url = self._path(name).rpartition("/")[0], self.store.url_of(name)
        identity = self.store.identity_of(info)
        snapshot = read_manifest(self.store, name, info["size"], identity, self.patience)
        if snapshot is None:
            return None
        size = sum(block.size for block in snapshot.blocks)
        address = None if self._path(name) == url else Address(url.rpartition("/")[0])
        return Target(path, "snapshot", size, None, identity, address)


def _manifest_folder(name: str) -> str:
    """The prefix of a snapshot's objects, if it is one's manifest that is called so."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}/" if slash and last == MANIFEST else ""
