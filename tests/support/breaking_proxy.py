"""An HTTP server between a test and a real one, which breaks answers as the test says.

What it breaks are answers to requests for a range, or for a listing; everything else passes.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

from tests.support.web_server import WebServer

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class Answer(NamedTuple):
    """What the real server said."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """The connection that the answer goes to."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler

    def send(self, answer: Answer, *, length: int | None = None, upto: int | None = None) -> None:
        """Sends an answer.

        Args:
            length: what its Content-Length says; by default the truth.
            upto: bytes of the body that are sent.
        """
        handler = self._handler
        handler.send_response_only(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        if length is not None:
            headers["Content-Length"] = str(length)
        for name, value in headers.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer.body[:upto])
        handler.wfile.flush()

    def reset(self) -> None:
        """Ends the connection with an RST."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._handler.close_connection = True
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_WR)


Fault = Callable[[Client, Answer], None]


def passed(client: Client, answer: Answer) -> None:
    """Nothing is broken."""
    client.send(answer)


def refused(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Another answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda client, _answer: client.send(Answer(status, named, body))


slow_down = refused(503, SLOW_DOWN, Content_Type="application/xml")


def reset_after(count: int) -> Fault:
    """The connection is reset in the middle of the body."""

    def fault(client: Client, answer: Answer) -> None:
        client.send(answer, upto=count)
        client.reset()

    return fault


def closed_after(count: int) -> Fault:
    """The connection ends before the body does."""

    def fault(client: Client, answer: Answer) -> None:
        client.send(answer, upto=count)
        client.close()

    return fault


def shortened_to(count: int) -> Fault:
    """The body is shorter than the range, and its length says so."""
    return lambda client, answer: client.send(answer._replace(body=answer.body[:count]))


def chunked(more: int) -> Fault:
    """The body comes in chunks, without its length, and with more bytes at its end."""

    def fault(client: Client, answer: Answer) -> None:
        body = answer.body + bytes(more)
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (body[:half], body[half:]))
        headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}
        client.send(Answer(answer.status, {**answer.headers, **headers}, chunks + b"0\r\n\r\n"))

    return fault


def another_range(size: int) -> Fault:
    """As many bytes as were asked for, zeros of another place.

    Args:
        size: of the object.
    """

    def fault(client: Client, answer: Answer) -> None:
        headers = {key: each for key, each in answer.headers.items() if key != "content-range"}
        headers["Content-Range"] = f"bytes 4096-{4095 + len(answer.body)}/{size}"
        client.send(Answer(answer.status, headers, bytes(len(answer.body))))

    return fault


def with_header(name: str, value: str | None) -> Fault:
    """One header is another one, or left out."""

    def fault(client: Client, answer: Answer) -> None:
        kept = {key: each for key, each in answer.headers.items() if key.lower() != name.lower()}
        client.send(answer._replace(headers=kept if value is None else {**kept, name: value}))

    return fault


def silent(client: Client, _answer: Answer) -> None:
    """No answer, and the connection ends."""
    client.reset()


class BreakingProxy(WebServer):
    """Passes on what comes, and breaks the answers.

    Attributes:
        upstream: host and port of the real server.
        faults: for the next requests for a range, in order of their arrival; then they pass.
        always: for all others; None: they pass.
        listings: as `faults`, for the next requests for a listing.
        before: called with the number of each request for a range before it is passed on.
        ranges: the headers Range that came.
        most: the largest number of answers that were under way at once.
    """

    def __init__(self, upstream: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.upstream = upstream
        self._lock = threading.Lock()
        self._now = 0
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.listings: list[Fault] = []
        self.before: Callable[[int], None] | None = None
        self.ranges: list[str] = []
        self.most = 0

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Passes a request on, and breaks its answer if that is its turn."""
        found = handler.headers.get("Range")
        fault: Fault | None = None
        if found is not None:
            with self._lock:
                self.ranges.append(found)
                fault = self.faults.pop(0) if self.faults else self.always
                number = len(self.ranges)
            if self.before is not None:
                self.before(number)
        elif "list-type" in handler.path:
            with self._lock:
                fault = self.listings.pop(0) if self.listings else None
        with self._counted(), contextlib.suppress(OSError):
            (fault or passed)(Client(handler), self._passed_on(handler))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def _passed_on(self, handler: BaseHTTPRequestHandler) -> Answer:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length) if length else None
        sent = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP}
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            connection.request(handler.command, handler.path, body, sent)
            answer = connection.getresponse()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
            if handler.command == "HEAD":
                kept["Content-Length"] = answer.getheader("Content-Length", "0")
            return Answer(answer.status, kept, answer.read())
        finally:
            connection.close()

    def reset(self) -> None:
        """Nothing is broken any more, and nothing was counted."""
        self.faults, self.always, self.listings, self.before = [], None, [], None
        self.ranges, self.most, self.connections = [], 0, 0
