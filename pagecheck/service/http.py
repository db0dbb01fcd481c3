"""HTTP for the metrics and the page: one thread, a few connections, and little time for each.

Danger: there is no login, so anybody who reaches the address may open connections without end, send
half a request, or read nothing. Decision: a request has two seconds and 8 KiB, 64 connections
are kept, and one more takes the place of the oldest, so that a scraper, whose request comes with
its connection, is answered among any number of others. A browser opens six and sends a moment
later: nobody makes room in the first 50 ms, others wait in the kernel meanwhile. The time that an
answer took to compute is slept afterwards: requests use at most half a CPU.
Danger: a browser shows what others sent as if it were ours. Decision: every answer forbids it all
that the page does not need: scripts and styles but our own files, frames, forms, guessed types.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import resource
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import ResourceError, UsageError
from pagecheck.shortage import no_thread

CONNECTIONS: Final = 64
CONNECTIONS_LEAST: Final = 8
DESCRIPTORS_SHARE: Final = 16  # of those that this process may have
REQUEST_BYTES: Final = 8192
REQUEST_S: Final = 2.0
GRACE_S: Final = 0.05
SLEEP_S: Final = 0.5
END_S: Final = 1.0
SHORT_S: Final = 0.1  # after a shortage of descriptors
BACKLOG: Final = 128
HEADERS: Final = (
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
)

log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What is answered: its media type, its bytes and the status."""

    media_type: str
    body: bytes
    status: str = "200 OK"


class Request(NamedTuple):
    """A request that is answered by a route.

    Attributes:
        path: without what follows a question mark.
        headers: names in lower case, and values, in the order in which they came.
    """

    path: str
    headers: tuple[tuple[str, str], ...] = ()

    def values(self, name: str) -> list[str]:
        """What every header of that name says."""
        return [value for each, value in self.headers if each == name]

    def value(self, name: str) -> str:
        """What the first header of that name says; empty where there is none."""
        return next(iter(self.values(name)), "")


# A path, or a folder's with its last slash, and who answers it; None: there is nothing there.
Routes = Mapping[str, Callable[[Request], Page | None]]


class _Connection:
    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.stays_until = clock.now_s() + GRACE_S
        self.until = clock.now_s() + REQUEST_S
        self.request = bytearray()
        self.rest = memoryview(b"")

    @property
    def events(self) -> int:
        return select.POLLOUT if self.rest else select.POLLIN

    def is_complete(self) -> bool:
        return b"\r\n\r\n" in self.request or b"\n\n" in self.request


class HttpServer:
    """Answers GET on one address until `close`."""

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        """Listens.

        Args:
            address: host, as an IP address, and port; port 0 takes a free one.
            routes: who answers runs in the server's thread.

        Raises:
            OSError: it cannot be listened on.
            ResourceError: no thread can be started.
        """
        host, port = address
        self._routes = routes
        self._ended = threading.Event()
        self._open: list[_Connection] = []
        self._places = places()
        self._socket = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="pagecheck-http", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._socket.close()
            raise no_thread("HTTP", error) from error

    def close(self) -> None:
        """Stops listening and hangs up."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._step()
        except Exception:
            log.exception("HTTP")
        finally:
            for each in self._open:
                each.socket.close()
            self._socket.close()

    def _step(self) -> None:
        poll = select.poll()
        ends = [clock.now_s() + SLEEP_S, *(each.until for each in self._open)]
        if len(self._open) < self._places or clock.now_s() >= self._open[0].stays_until:
            poll.register(self._socket, select.POLLIN)
        else:
            ends.append(self._open[0].stays_until)
        for each in self._open:
            poll.register(each.socket, each.events)
        left = min(ends) - clock.now_s()
        ready = {fd for fd, _events in poll.poll(max(0, int(left * 1000) + 1))}
        for each in list(self._open):
            if each.socket.fileno() in ready:
                self._continue(each)
            elif clock.now_s() >= each.until:
                self._drop(each)
        if self._socket.fileno() in ready:
            self._accept()

    def _accept(self) -> None:
        try:
            connected, _address = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if self._ended.is_set():
                return
            log.warning("HTTP: cannot accept a connection: %s", error.strerror)
            self._ended.wait(SHORT_S)
            return
        connected.setblocking(False)
        if len(self._open) >= self._places:
            self._drop(self._open[0])
        self._open.append(_Connection(connected))
        self._continue(self._open[-1])

    def _drop(self, connection: _Connection) -> None:
        self._open.remove(connection)
        connection.socket.close()

    def _continue(self, connection: _Connection) -> None:
        """Reads what came, or sends what it takes."""
        try:
            if not connection.rest and self._has_request(connection):
                connection.rest = memoryview(self._answer(bytes(connection.request)))
            if connection.rest:
                connection.rest = connection.rest[connection.socket.send(connection.rest) :]
                if not connection.rest:
                    self._drop(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)

    def _has_request(self, connection: _Connection) -> bool:
        """Reads on; raises OSError where the other side hung up."""
        while not connection.is_complete() and len(connection.request) <= REQUEST_BYTES:
            data = connection.socket.recv(REQUEST_BYTES)
            if not data:
                raise ConnectionResetError
            connection.request += data
        return True

    def _answer(self, request: bytes) -> bytes:
        lines = [line.rstrip("\r") for line in request.decode("latin-1").split("\n")]
        words = lines[0].split() if lines else []
        page, more = Page("text/plain; charset=utf-8", b""), ""
        if len(request) > REQUEST_BYTES:
            page = page._replace(status="431 Request Header Fields Too Large")
        elif len(words) != 3 or not words[2].startswith("HTTP/1."):
            page = page._replace(status="400 Bad Request")
        elif words[0] not in ("GET", "HEAD"):
            page = page._replace(status="405 Method Not Allowed")
            more = "Allow: GET, HEAD\r\n"
        else:
            path = words[1].partition("?")[0]
            page = self._computed(Request(path, _headers(lines[1:])), page)
        head = (
            f"HTTP/1.1 {page.status}\r\nContent-Type: {page.media_type}\r\n"
            f"Content-Length: {len(page.body)}\r\n{HEADERS}{more}Connection: close\r\n\r\n"
        )
        return head.encode() + (b"" if words[:1] == ["HEAD"] else page.body)

    def _computed(self, request: Request, empty: Page) -> Page:
        folder = request.path[: request.path.rfind("/") + 1]
        route = self._routes.get(request.path) or (
            self._routes.get(folder) if len(folder) > 1 else None
        )
        started = clock.now_s()
        try:
            found = None if route is None else route(request)
        except Exception:
            log.exception("HTTP")
            found = empty._replace(status="500 Internal Server Error")
        self._ended.wait(clock.now_s() - started)
        return found or empty._replace(status="404 Not Found")


def places() -> int:
    """How many connections are kept: fewer where this process may have few descriptors."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(CONNECTIONS_LEAST, min(CONNECTIONS, soft // DESCRIPTORS_SHARE))


def _headers(lines: list[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for line in lines:
        if not line:
            break
        name, _, value = line.partition(":")
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


def parse_address(option: str, address: str) -> tuple[str, int]:
    """HOST:PORT or [V6]:PORT as host and port.

    Args:
        option: what it was given by, for the message.

    Raises:
        UsageError: it is invalid.
    """
    host, _, port = address.rpartition(":")
    try:
        if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise ValueError
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        return str(ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)), int(port)
    except ValueError as error:
        raise UsageError(
            f"{option} {address}: not an address; write such as 127.0.0.1:9753 or [::1]:9753"
        ) from error


def listen_http(option: str, address: tuple[str, int], routes: Routes) -> tuple[HttpServer, str]:
    """Serves routes on an address.

    Args:
        option: what it was given by, for messages.
        address: host and port; port 0 takes a free one.

    Returns:
        The server, which the caller closes, and the address that it listens on.

    Raises:
        ResourceError: it cannot be listened on.
    """
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    try:
        server = HttpServer(address, routes)
    except OSError as error:
        raise ResourceError(f"{option} {shown}:{port}: cannot listen: {error.strerror}") from error
    return server, f"{shown}:{server.port}"
