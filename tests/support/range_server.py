"""A small web server that serves ranges of what is in memory, or badly, as a test says."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.support.web_server import WebServer


class RangeServer(WebServer):
    """Serves what it is given.

    Attributes:
        files: what it serves, by path; a path that ends with a slash is a page of links.
        links: that each page of links has besides.
        ranges: it serves ranges.
        tags: "strong", "weak" or "none": what ETags it gives.
        dates: it gives Last-Modified.
        extra: headers that it adds.
        user: "name:password" that it wants.
        silent: how many requests from now on get no answer.
        seen: the requests that came, as (method, path with query, headers).
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.files: dict[str, bytes] = {}
        self.links: list[str] = []
        self.ranges = True
        self.tags = "strong"
        self.dates = True
        self.extra: dict[str, str] = {}
        self.silent = 0
        self.user: str | None = None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._over = threading.Event()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers a request, as the attributes say."""
        self.seen.append((handler.command, handler.path, dict(handler.headers)))
        if self.silent:
            self.silent -= 1
            self._over.wait(60)
            return None
        path = urlsplit(handler.path).path
        if self.user is not None and not self._knows(handler.headers.get("Authorization", "")):
            return self._answer(handler, 401, b"", {})
        if path.endswith("/"):
            links = [name for name in self.files if name.startswith(path)]
            links += self.links
            page = "".join(f'<a href="{name}">{name}</a>' for name in links)
            return self._answer(handler, 200, page.encode(), {"Content-Type": "text/html"})
        if path not in self.files:
            return self._answer(handler, 404, b"", {})
        body, headers = self.files[path], {}
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        if self.tags != "none":
            headers["ETag"] = f"W/{tag}" if self.tags == "weak" else tag
        if self.dates:
            headers["Last-Modified"] = "Mon, 05 Oct 2026 10:00:00 GMT"
        if handler.headers.get("If-Match", tag) != tag:
            return self._answer(handler, 412, b"", headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if asked is None or not self.ranges:
            return self._answer(handler, 200, body, headers)
        first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
        if first >= len(body):
            return self._answer(handler, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return self._answer(handler, 206, body[first : last + 1], headers)

    def _knows(self, header: str) -> bool:
        return b64decode(header.removeprefix("Basic ")).decode() == self.user

    def _answer(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        handler.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers, **self.extra}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        super().__exit__(*error)
