"""URLs of stores: what may be shown of them.

Danger: a URL may hold a password (`https://user:password@host/`) or a signature
(`?X-Amz-Signature=`), and rows, logs and messages are read by others. Decision: what is shown is
the URL without user, password, query and fragment; libraries' texts pass through
`without_secrets`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import unquote

from pagecheck.printable import printable

WEB: Final = ("http", "https")

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII | re.IGNORECASE)
_USER: Final = re.compile(r"(?<=://)[^/\s\"']*@")
_QUERY: Final = re.compile(r"\?[^\s\"'>)]*=[^\s\"'>)]*")
# Of signed URLs of Amazon, Google and Azure.
_SIGNATURE: Final = re.compile(
    r"(x-amz-|x-goog-|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"
    r"|(sv|se|sp|spr|sr|st|sig|sip|skoid|sktid|skt|ske|sks|skv)=|token|access_token|auth)",
    re.IGNORECASE,
)
_SIGNED: Final = re.compile(
    r"((?:signature|credential|token|secret|password|authorization|sig|key)[\w-]*\s*[=:]\s*)\S+",
    re.IGNORECASE,
)
_MAGIC: Final = re.compile(r"[*?\[]")
_WEB_MAGIC: Final = re.compile(r"[*\[]")  # a question mark begins the query there


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/key`; empty where there is none."""
    found = _URL.match(url)
    return found[1].lower() if found else ""


def is_url(path: str) -> bool:
    """Whether a path names something in a store, such as s3://bucket/prefix."""
    return bool(scheme_of(path))


def local_path(path: str) -> str:
    """The path of a file:// URL of this machine; anything else as it is."""
    for begin in ("file:///", "file://localhost/"):
        if path.startswith(begin):
            return unquote(f"/{path.removeprefix(begin)}", errors="surrogateescape")
    return path


def shown(url: str) -> str:
    """The URL without what may be secret: it is a target's path."""
    scheme = scheme_of(url)
    rest, query = url[len(scheme) + 3 :], ""
    if scheme in WEB:
        rest, _mark, query = rest.partition("#")[0].partition("?")
    return f"{scheme}://{_without_user(rest)}{_digest(query)}"


def has_user(url: str) -> bool:
    """Whether it names a user, or holds a password."""
    rest = url[len(scheme_of(url)) + 3 :]
    return _without_user(rest) != rest


def _without_user(rest: str) -> str:
    """What follows the scheme, without user and password.

    A slash should be escaped in a password, but is not always; then what looks like the host ends
    with something else than a port.
    """
    host, slash, path = rest.partition("/")
    port = "" if host.endswith("]") else host.partition(":")[2]
    if "@" not in host and "@" in path and port and not port.isdigit():
        return rest.rpartition("@")[2]
    return f"{host.rpartition('@')[2]}{slash}{path}"


def _digest(query: str) -> str:
    """What tells apart URLs that differ in their queries: a hash of all but a signature, which is
    another one each time."""
    kept = [each for each in query.split("&") if each and not _SIGNATURE.match(each)]
    if not kept:
        return ""
    return f"?{hashlib.sha256('&'.join(kept).encode(errors='surrogateescape')).hexdigest()[:8]}"


def is_glob(url: str) -> bool:
    """Whether it is a pattern; only what follows the host, or the bucket, can be one."""
    scheme = scheme_of(url)
    _host, _slash, path = url[len(scheme) + 3 :].partition("/")
    if scheme in WEB:
        return _WEB_MAGIC.search(path.partition("?")[0]) is not None
    return _MAGIC.search(path) is not None


def without_secrets(text: str) -> str:
    """A library's text on one line, without what looks like a part of a credential."""
    text = _QUERY.sub("?...", _USER.sub("", " ".join(text.split())))
    return printable(_SIGNED.sub(r"\1...", text), 300)
