"""What a store's library raised: in one line, and whether another try may help.

The libraries are not imported here: which one it is depends on the store. Their exceptions are told
apart by what they carry, a response or a status, and then by their classes' names.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pagecheck.survey.urls import without_secrets

WAIT_MAX_S: Final = 30.0

_PASSING_STATUS: Final = frozenset(
    {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 524, 529}
)
_PASSING_CODES: Final = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"),
    *("InternalError", "ServiceUnavailable", "BandwidthLimitExceeded", "OperationAborted"),
}
# Names of classes of botocore, urllib3, http.client and aiohttp, and of those derived from them.
_PASSING_CLASSES: Final = {
    *("HTTPClientError", "IncompleteReadError", "ResponseStreamingError", "ResponseParserError"),
    *("HTTPError", "HTTPException", "FlexibleChecksumError"),
    *("ClientConnectionError", "ClientPayloadError"),
}
_ABSENT_CLASSES: Final = {"EndpointConnectionError", "ClientConnectorError", "gaierror"}
_STATUS_OF: Final = {"ClientResponseError": "status", "HttpError": "code"}  # aiohttp's, gcsfs's
_PASSING_ERRNO: Final = frozenset({errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN, errno.ENETUNREACH})
_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError"})


class Broken(Exception):
    """The store answered, but not what was asked for; another try may help."""


class Refused(Exception):
    """The store answered something that another try does not change."""


class Trouble(NamedTuple):
    """Why a request failed.

    Attributes:
        text: one line, without credentials.
        passing: another try may help.
        wait_s: how long the store asks to wait before it.
        absent: there is nobody to connect to.
    """

    text: str
    passing: bool
    wait_s: float = 0.0
    absent: bool = False


def trouble_of(error: BaseException) -> Trouble:
    """What an exception of a store's library means."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, Broken | Refused):
            return Trouble(str(each), isinstance(each, Broken))
        found = _answered(each)
        if found is not None:
            return found
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            error = getattr(each, "certificate_error", each)  # aiohttp's own has one within
            why = getattr(error, "verify_message", "") or without_secrets(str(error))
            return Trouble(f"its certificate is not valid: {why}", passing=False)
    return _unanswered(error, chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that it stems from."""
    for _depth in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _answered(error: BaseException) -> Trouble | None:
    """What the store answered, if it did."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        said = response.get("Error", {})
        meta = response.get("ResponseMetadata", {})
        code = str(said.get("Code", ""))
        status = meta.get("HTTPStatusCode") or (int(code) if code.isdigit() else 0)
        return _of_status(status, code, said.get("Message"), meta.get("HTTPHeaders"))
    for name, member in _STATUS_OF.items():
        status = getattr(error, member, None) if name in _names(error) else None
        if isinstance(status, int):
            headers = getattr(error, "headers", None)
            return _of_status(status, "", getattr(error, "message", ""), headers)
    return None


def _names(error: BaseException) -> set[str]:
    """Of its class and of those that it is derived from."""
    return {base.__name__ for base in type(error).__mro__}


def _of_status(status: int, code: str, message: Any, headers: Any) -> Trouble:
    words = [each for each in (str(status or ""), "" if code.isdigit() else code) if each]
    said = without_secrets(str(message or ""))
    text = " ".join(words) + (f": {said}" if said else "")
    if status == 404:
        return Trouble(f"is not there ({text})", passing=False)
    if status in (412, 416):
        return Trouble(f"was changed ({text})", passing=False)
    passing = status in _PASSING_STATUS or code in _PASSING_CODES
    return Trouble(f"the store answered {text}", passing, _wait_of(headers))


def _wait_of(headers: Any) -> float:
    """Seconds of Retry-After."""
    if not isinstance(headers, Mapping):
        return 0.0
    text = str(headers.get("Retry-After") or headers.get("retry-after") or "")
    return min(float(text), WAIT_MAX_S) if text.isdigit() else 0.0


def _unanswered(error: BaseException, chain: list[BaseException]) -> Trouble:
    if isinstance(error, FileNotFoundError):
        return Trouble("is not there", passing=False)
    said = without_secrets(str(error)) or type(error).__name__
    names = set().union(*map(_names, chain))
    if names & _NO_CREDENTIALS:
        return Trouble(
            "there are no credentials; give them as the store's library takes them, such as "
            "AWS_PROFILE, or FSSPEC_S3_ANON=true for what is public",
            passing=False,
        )
    if any(isinstance(each, TimeoutError | asyncio.TimeoutError) for each in chain):
        return Trouble(f"no answer in time ({said})", passing=True)
    numbers = {each.errno for each in chain if isinstance(each, OSError)}
    connection = any(isinstance(each, ConnectionError | EOFError) for each in chain)
    absent = bool(names & _ABSENT_CLASSES)
    if connection or absent or names & _PASSING_CLASSES or numbers & _PASSING_ERRNO:
        return Trouble(f"the connection failed ({said})", passing=True, absent=absent)
    if not isinstance(error, OSError) and "BotoCoreError" not in names:
        said = f"{type(error).__name__}: {said}"  # such as a KeyError, which would say little
    return Trouble(said, passing=False)
