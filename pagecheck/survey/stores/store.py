"""One store, opened through fsspec.

Facts: fsspec's libraries run on one thread with an event loop; a library may retry by itself, and
cache what it has listed. Decision: nothing is cached here, and what is tried again is tried again
by `asking`, which knows how long.
"""

from __future__ import annotations

import importlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pagecheck.survey.stores.part import TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pagecheck.survey.stores.part import Part

QUIET_S: Final = 15.0  # how long a connection may bring no byte
CALL_S: Final = 1800.0  # a listing, with all its pages


class Store:
    """A store of any kind that fsspec knows; used by several threads at once.

    Attributes:
        scheme: of its URLs.
        fs: fsspec's file system.
        is_conditional: each answer proves by itself which version of the object it is of.
    """

    is_conditional = False

    def __init__(self, scheme: str) -> None:
        """Opens it; nothing is asked of it yet.

        Raises:
            ImportError: a package is missing.
        """
        self.scheme = scheme
        fsspec = importlib.import_module("fsspec")
        # One of our own, so that our options concern nobody else.
        self.fs: Any = fsspec.filesystem(scheme, skip_instance_cache=True, **self.options())

    def options(self) -> dict[str, Any]:
        """Arguments of the file system."""
        return {"use_listings_cache": False}

    def name_of(self, url: str) -> str:
        """What the library calls the object of a URL."""
        return str(self.fs._strip_protocol(url))

    def url_of(self, name: str) -> str:
        """The URL of what the library calls so."""
        return f"{self.scheme}://{name}"

    def fetch(self, part: Part, seconds: float) -> None:
        """One request for what is left of a part; what arrives is counted there.

        Args:
            seconds: that it may take.

        Raises:
            Exception: whatever the library raises; see `trouble_of`.
        """
        options = {"start": part.first, "end": part.end, "seconds": seconds}
        part.take(self.call("cat_file", part.name, **options))

    def call(self, method: str, *given: object, seconds: float = CALL_S, **options: object) -> Any:
        """Calls one of the file system's methods.

        Args:
            seconds: that it may take, where the library can be interrupted.
        """
        if not getattr(self.fs, "async_impl", False):
            return getattr(self.fs, method)(*given, **options)
        from fsspec.asyn import sync

        work = getattr(self.fs, f"_{method}")
        return sync(self.fs.loop, work, *given, timeout=seconds, **options)

    def info(self, name: str) -> Mapping[str, Any]:
        """What the store says of an object, or of a folder."""
        found: Mapping[str, Any] = self.call("info", name)
        return found

    def identity_of(self, info: Mapping[str, Any]) -> str:
        """What changes when the bytes do; empty where the store does not tell."""
        for key in ("ETag", "etag"):
            if info.get(key):
                return f"{TAG}{info[key]}"
        for key in ("generation", "LastModified", "Last-Modified", "mtime", "created"):
            if info.get(key):
                when = info[key]
                # A listing may have the number of seconds where the object's own answer has a date.
                when = when.timestamp() if isinstance(when, datetime) else when
                return f"{key}:{when}:{info.get('size')}"
        return ""
