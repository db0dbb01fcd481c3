"""Amazon's S3, and what answers like it, through s3fs.

Facts: s3fs receives all bytes on one thread, in Python, and copies them three times; botocore, on
which it is built, receives them on as many threads as there are requests, without the interpreter's
lock. Decision: s3fs lists, and knows endpoint, credentials and options; ranges are asked for by
botocore's client, made of the same, which signs and verifies as s3fs's own does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.survey.stores.part import TAG
from pagecheck.survey.stores.store import QUIET_S, Store
from pagecheck.survey.stores.troubles import Broken
from pagecheck.survey.urls import scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pagecheck.survey.stores.part import Part

CONNECTIONS: Final = 256
READ_BYTES: Final = 1 << 20


class S3(Store):
    """Amazon's S3, and what answers like it."""

    is_conditional = True

    def __init__(self, scheme: str) -> None:
        """As `Store`."""
        super().__init__(scheme)
        self._lock = threading.Lock()
        self._client: Any = None
        self._usual: dict[str, Any] = {}

    def options(self) -> dict[str, Any]:
        """As `Store.options`."""
        from fsspec.config import conf

        given = conf.get("s3", {}).get("config_kwargs", {})
        ours = {
            "max_pool_connections": CONNECTIONS,
            "read_timeout": QUIET_S,
            "retries": {"total_max_attempts": 3, "mode": "standard"},  # of each page of a listing
        }
        return {**super().options(), "config_kwargs": {**ours, **given}}

    def name_of(self, url: str) -> str:
        """As `Store.name_of`."""
        return url[len(scheme_of(url)) + 3 :]  # a key may end with a slash

    def fetch(self, part: Part, seconds: float) -> None:
        """As `Store.fetch`."""
        until_s = clock.now_s() + seconds
        client = self._shared_client()
        bucket, key, _version = self.fs.split_path(part.name)
        asked = {**self._usual, "Bucket": bucket, "Key": key, "Range": part.range}
        if part.tag is not None:
            asked["IfMatch"] = part.tag
        answer = client.get_object(**asked)
        status, body = answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"]
        try:
            part.require_range(status, answer.get("ContentRange"), answer.get("ContentLength"))
            part.require_identity(self.identity_of(answer))
            stream = direct_stream(body)
            while part.left:
                if clock.now_s() > until_s:
                    raise TimeoutError
                if stream is None:
                    part.take(body.read(min(READ_BYTES, part.left)) or _end())
                else:
                    part.take_from(stream, READ_BYTES)
            if stream is not None and stream.isclosed():  # at the end of the answer, to the byte
                body._raw_stream.release_conn()  # for the next request
        finally:
            body.close()

    def _shared_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self.fs)
                known = self._client.meta.service_model.operation_model("GetObject").input_shape
                given = {**self.fs.s3_additional_kwargs, **self.fs.req_kw}
                self._usual = {k: v for k, v in given.items() if k in known.members}
            return self._client

    def identity_of(self, info: Mapping[str, Any]) -> str:
        """As `Store.identity_of`."""
        return f"{TAG}{info['ETag']}" if info.get("ETag") else ""


def direct_stream(body: Any) -> Any:
    """What receives a body's bytes where they are wanted; botocore and urllib3 themselves have no
    way but to receive them elsewhere, and to copy them.

    Returns:
        None: these are versions in which it is not where it was, or the body has a checksum that
        botocore verifies: it is read through them.
    """
    from botocore.response import StreamingBody

    stream = getattr(getattr(body, "_raw_stream", None), "_fp", None)
    return stream if type(body) is StreamingBody and hasattr(stream, "readinto") else None


def _end() -> bytes:
    raise Broken("the body ended too early")


def _client(fs: Any) -> Any:
    """botocore's own client, with the settings of s3fs's."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    config = {**fs.config_kwargs}
    config.setdefault("connect_timeout", fs.connect_timeout)
    config.pop("connector_args", None)  # of aiohttp
    config["retries"] = {"total_max_attempts": 1}  # `asking` makes them, where the body broke off
    keys = {
        "aws_access_key_id": fs.key,
        "aws_secret_access_key": fs.secret,
        "aws_session_token": fs.token,
    }
    given = {**keys, "endpoint_url": fs.endpoint_url, "use_ssl": fs.use_ssl, **fs.client_kwargs}
    if fs.anon:
        config["signature_version"] = UNSIGNED
        given = {name: value for name, value in given.items() if name not in keys}
    given = {name: value for name, value in given.items() if value is not None}
    session = botocore.session.Session(**fs.kwargs)
    return session.create_client("s3", config=Config(**config), **given)
