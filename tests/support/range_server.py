"""A small web server that serves ranges of what is in memory, or badly, as a test says."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_given: Any) -> None:
        """A client that goes away is no error."""


class RangeServer:
    """Runs on a thread of its own.

    Attributes:
        url: where it listens.
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
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_HEAD = do_GET  # noqa: N815  # as the library wants

            def log_message(self, *_given: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{scheme}://{self.host}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
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

    def __enter__(self) -> RangeServer:
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
