"""HTTP for the metrics: one thread, a few connections, and little time for each.

Danger: there is no login, so anybody who reaches the address may open connections without end, send
half a request, or read nothing. Decision: a request has two seconds and 8 KiB, eight connections
are kept, and one more takes the place of the oldest, so that a scraper, whose request comes with
its connection, is answered among any number of others. The time that an answer took to compute
is slept afterwards: scrapes use at most half a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.shortage import no_thread

CONNECTIONS: Final = 8
REQUEST_BYTES: Final = 8192
REQUEST_S: Final = 2.0
SLEEP_S: Final = 0.5
END_S: Final = 1.0
SHORT_S: Final = 0.1  # after a shortage of descriptors
BACKLOG: Final = 64

log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What is answered: its media type and its bytes."""

    media_type: str
    body: bytes


class _Connection:
    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.until = clock.now_s() + REQUEST_S
        self.request = bytearray()
        self.rest = memoryview(b"")

    @property
    def events(self) -> int:
        return select.POLLOUT if self.rest else select.POLLIN

    def is_complete(self) -> bool:
        return b"\r\n\r\n" in self.request or b"\n\n" in self.request


class ScrapeServer:
    """Answers GET /metrics on one address until `close`."""

    def __init__(self, address: tuple[str, int], compute: Callable[[str], Page]) -> None:
        """Listens.

        Args:
            address: host, as an IP address, and port; port 0 takes a free one.
            compute: called with the header Accept; runs in the server's thread.

        Raises:
            OSError: it cannot be listened on.
            ResourceError: no thread can be started.
        """
        host, port = address
        self._compute = compute
        self._ended = threading.Event()
        self._open: list[_Connection] = []
        self._socket = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="pagecheck-metrics", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._socket.close()
            raise no_thread("metrics", error) from error

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
            log.exception("metrics")
        finally:
            for each in self._open:
                each.socket.close()
            self._socket.close()

    def _step(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        for each in self._open:
            poll.register(each.socket, each.events)
        left = min([SLEEP_S, *(each.until - clock.now_s() for each in self._open)])
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
            log.warning("metrics: cannot accept a connection: %s", error.strerror)
            self._ended.wait(SHORT_S)
            return
        connected.setblocking(False)
        if len(self._open) >= CONNECTIONS:
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
        lines = request.decode("latin-1").splitlines()
        words = lines[0].split() if lines else []
        status, page, method = "200 OK", Page("text/plain; charset=utf-8", b""), ""
        if len(request) > REQUEST_BYTES:
            status = "431 Request Header Fields Too Large"
        elif len(words) != 3 or not words[2].startswith("HTTP/1."):
            status = "400 Bad Request"
        elif words[0] not in ("GET", "HEAD"):
            status = "405 Method Not Allowed"
        elif words[1].partition("?")[0] not in ("/", "/metrics"):
            status = "404 Not Found"
        else:
            method = words[0]
            status, page = self._computed(status, page, _accepted(lines[1:]))
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {page.media_type}\r\n"
            f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == "HEAD" else page.body)

    def _computed(self, status: str, page: Page, accept: str) -> tuple[str, Page]:
        started = clock.now_s()
        try:
            page = self._compute(accept)
        except Exception:
            log.exception("metrics")
            status = "500 Internal Server Error"
        self._ended.wait(clock.now_s() - started)
        return status, page


def _accepted(headers: list[str]) -> str:
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "accept":
            return value.strip()
    return ""
