"""Web servers that serve ranges, through fsspec's HTTP file system and its session of aiohttp."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from pagecheck.survey.stores.store import QUIET_S, Store
from pagecheck.survey.stores.troubles import Refused

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from pagecheck.survey.stores.part import Part


Answer = TypeVar("Answer")


class Web(Store):
    """A server that speaks HTTP and serves ranges."""

    is_conditional = True

    def options(self) -> dict[str, Any]:
        """As `Store.options`."""
        from fsspec.config import conf

        given = conf.get(self.scheme, {}).get("client_kwargs", {})
        # Proxies and .netrc, as every program that reads URLs.
        return {**super().options(), "client_kwargs": {"trust_env": True, **given}}

    def url_of(self, name: str) -> str:
        """As `Store.url_of`."""
        return name

    async def get(self, name: str, headers: Mapping[str, str]) -> Any:
        """A request, whose answer is a context manager."""
        import aiohttp

        session = await self.fs.set_session()
        options = dict(self.fs.kwargs)
        given = options.pop("headers", {})
        return session.get(
            self.fs.encode_url(name),
            headers={**given, "Accept-Encoding": "identity", **headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=QUIET_S, sock_read=QUIET_S),
            **options,
        )

    def fetch(self, part: Part, seconds: float) -> None:
        """As `Store.fetch`."""
        self._wait(self._fetch(part), seconds)

    def info(self, name: str) -> Mapping[str, Any]:
        """As the answer to a request for the first byte says, which a signature for reading
        permits, and which shows whether ranges are served."""
        return self._wait(self._info(name), 4 * QUIET_S)

    def _wait(self, work: Coroutine[Any, Any, Answer], seconds: float) -> Answer:
        """What becomes of work on the library's event loop; at the end it is over."""

        async def limited() -> Answer:
            async with asyncio.timeout(seconds):
                return await work

        return asyncio.run_coroutine_threadsafe(limited(), self.fs.loop).result()

    async def _fetch(self, part: Part) -> None:
        headers = {"Range": part.range}
        if part.tag is not None:
            headers["If-Match"] = part.tag
        async with await self.get(part.name, headers) as answer:
            answer.raise_for_status()
            _require_plain(answer.headers)
            found = answer.headers
            part.require_range(
                answer.status, found.get("Content-Range"), found.get("Content-Length")
            )
            part.require_identity(self.identity_of({**_version(found), "size": part.size}))
            async for chunk in answer.content.iter_any():
                part.take(chunk)

    async def _info(self, name: str) -> Mapping[str, Any]:
        async with await self.get(name, {"Range": "bytes=0-0"}) as answer:
            found = answer.headers
            empty = answer.status == 416 and found.get("Content-Range", "").endswith("*/0")
            if not empty:
                answer.raise_for_status()
                _require_plain(found)
            whole = found.get("Content-Range", "").rpartition("/")[2]
            size = whole if whole.isdigit() else found.get("Content-Length", "")
            if answer.status == 206 and not whole.isdigit():
                size = ""
            if not size.isdigit():
                raise Refused("its server does not say how large it is")
            version = _version(found)
            answer.close()  # the body may be all of it
        return {"name": name, "type": "file", "size": int(size), **version}


def _require_plain(headers: Mapping[str, str]) -> None:
    coding = headers.get("Content-Encoding", "identity")
    if coding not in ("", "identity"):
        raise Refused(f"its server sends it encoded ({coding}), not as it is")


def _version(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: headers[key] for key in ("ETag", "Last-Modified") if key in headers}
