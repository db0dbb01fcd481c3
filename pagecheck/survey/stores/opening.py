"""The store of a URL."""

from __future__ import annotations

import os
import threading
from typing import Final

from pagecheck.errors import EngineError, UsageError
from pagecheck.survey.stores.s3 import S3
from pagecheck.survey.stores.store import Store
from pagecheck.survey.stores.web import Web
from pagecheck.survey.urls import has_user, scheme_of, shown

SCHEMES: Final = ("s3", "gs", "http", "https", "memory")

_CHAIN: Final = "::"
_PRIVATE: Final = ("s3", "gs")
_ALIASES: Final = {"s3a": "s3", "gcs": "gs"}
_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_KINDS: Final[dict[str, type[Store]]] = {"s3": S3, "http": Web, "https": Web}

_lock = threading.Lock()
_stores: dict[tuple[int, str], Store] = {}


def open_store(url: str) -> Store:
    """The store of a URL; this process opens each kind once.

    Raises:
        UsageError: there is none of that kind.
        EngineError: a package is missing.
    """
    scheme = scheme_of(url)
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in SCHEMES or _CHAIN in url.partition("?")[0]:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise UsageError(f"{shown(url)}: is not a URL that pagecheck reads: {known}")
    if scheme in _PRIVATE and has_user(url):
        raise UsageError(
            f"{shown(url)}: credentials are not taken from a URL; give them as the store's library "
            "takes them, such as AWS_PROFILE or ~/.aws/credentials"
        )
    try:
        with _lock:
            key = (os.getpid(), scheme)
            if key not in _stores:
                _stores[key] = _KINDS.get(scheme, Store)(scheme)
            return _stores[key]
    except ImportError as error:
        package = _PACKAGES.get(scheme, "fsspec")
        what = "gcsfs" if package == "gcsfs" else "'pagecheck[survey]'"
        raise EngineError(
            f"{shown(url)}: needs the package {package}: pip install {what} ({error})"
        ) from error


def forget_stores() -> None:
    """The next store is opened anew, with the credentials and servers of then."""
    with _lock:
        _stores.clear()
