"""Metrics and page have no login: whoever reaches them costs the service next to nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from pagecheck.service import http
from pagecheck.service.http import (
    CONNECTIONS_LEAST,
    HEADERS,
    REQUEST_BYTES,
    HttpServer,
    Page,
    places,
)
from tests.service.test_metrics import Scraped, address_of
from tests.support.hostile import at_rest, fds, figures, greeted, threads
from tests.support.known_ram import KnownRam
from tests.support.waiting import wait_for

HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"


@contextlib.contextmanager
def connections(port: int, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many, each of which says something and reads nothing."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with contextlib.suppress(OSError):  # hung up on already
                each.sendall(sent)
            made.append(each)
        yield made


def read_all(connected: socket.socket) -> bytes:
    """Until the other side hangs up, which must come."""
    connected.settimeout(20)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connected.recv(1 << 16):
            found += data
    return found


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


@pytest.mark.long(but="half")
@pytest.mark.parametrize("sent", [b"", HALF, WHOLE], ids=["nothing", "half", "unread"])
def test_half_requests_take_no_descriptor_and_no_thread(start_service, sent: bytes) -> None:
    options = ("-v", "--engine", "cpu", "--metrics", "127.0.0.1:0")
    service = start_service(*options, preexec_fn=few_descriptors)
    address = address_of(service)
    port = int(address.rpartition(":")[2].partition("/")[0])
    before = at_rest(service)
    ram = KnownRam(64)
    with connections(port, 400, sent):
        assert Scraped(address)("workers") == 2
        assert fds(service.pid) <= before[0] + CONNECTIONS_LEAST
        assert threads(service.pid) <= before[1]
        with greeted(service.path) as client:
            client.result("attach", {}, [ram.fd])
            assert client.result("check", {"block": 0})["blocks"][0]["counts"]["undecided"] == 0
            client.result("open-channel")
    ram.close()
    wait_for(lambda: figures(service) == before, "as before")


@pytest.fixture
def server() -> Iterator[Callable[..., HttpServer]]:
    with contextlib.ExitStack() as stack:

        def start(compute: Callable[[str], Page | None] | None = None) -> HttpServer:
            answer = compute or (lambda accept: Page("text/x", accept.encode()))

            def route(request: http.Request) -> Page | None:
                return answer(request.value("accept"))

            routes = dict.fromkeys(("/", "/metrics", "/folder/"), route)
            found = HttpServer(("127.0.0.1", 0), routes)
            stack.callback(found.close)
            return found

        yield start


def ask(server: HttpServer, sent: bytes) -> tuple[str, bytes]:
    """The status and the body of one answer."""
    with connections(server.port, 1, sent) as (each,):
        head, _, body = read_all(each).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert HEADERS in f"{head.decode()}\r\n"
    assert ("Allow: GET, HEAD" in lines) == ("405" in lines[0])
    assert f"Content-Length: {len(body)}" in lines or b"HEAD" in sent
    return lines[0].removeprefix("HTTP/1.1 "), body


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nAccept: a/b\r\n\r\n", "200 OK", b"a/b"),
        (b"GET /metrics?x=y HTTP/1.0\naccept:a\n\n", "200 OK", b"a"),
        (b"GET / HTTP/1.1\r\n\r\n", "200 OK", b""),
        (b"HEAD /metrics HTTP/1.1\r\nAccept: long\r\n\r\n", "200 OK", b""),
        (b"GET /folder/a/../b HTTP/1.1\r\nAccept: f\r\n\r\n", "404 Not Found", b""),
        (b"GET /folder/a?b=/../c HTTP/1.1\r\nAccept: f\r\n\r\n", "200 OK", b"f"),
        (b"GET /unknown HTTP/1.1\r\n\r\n", "404 Not Found", b""),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", "404 Not Found", b""),
        (b"GET //metrics HTTP/1.1\r\n\r\n", "404 Not Found", b""),
        (b"GET /metrics HTTP/1.1\r\n\r\nAccept: body\r\n\r\n", "200 OK", b""),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found", b""),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", b""),
        (b"OPTIONS / HTTP/1.1\r\n\r\n", "405 Method Not Allowed", b""),
        (b"get / HTTP/1.1\r\n\r\n", "405 Method Not Allowed", b""),
        (b"\x16\x03\x01\n\n", "400 Bad Request", b""),
        (b"\r\n\r\n", "400 Bad Request", b""),
        (b"GET /metrics\r\n\r\n", "400 Bad Request", b""),
        (b"x" * (REQUEST_BYTES + 1), "431 Request Header Fields Too Large", b""),
    ],
)
def test_requests_of_every_kind(server, sent: bytes, status: str, body: bytes) -> None:
    assert ask(server(), sent) == (status, body)


def test_a_route_may_know_nothing(server) -> None:
    assert ask(server(lambda _accept: None), WHOLE) == ("404 Not Found", b"")


def test_a_bug_is_no_end(server) -> None:
    answers = iter([Page("a/b", b"second")])

    def compute(accept: str) -> Page:
        if accept == "first":
            raise ValueError
        return next(answers)

    found = server(compute)
    assert ask(found, b"GET / HTTP/1.1\r\nAccept: first\r\n\r\n")[0].startswith("500")
    assert ask(found, WHOLE) == ("200 OK", b"second")


def test_half_a_request_is_hung_up_on(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.05)
    with connections(server().port, 1, HALF) as (each,):
        assert read_all(each) == b""


def test_who_does_not_read_is_hung_up_on(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.05)
    body = bytes(1 << 26)
    found = server(lambda _accept: Page("a/b", body))
    with connections(found.port, 1, WHOLE) as (each,):
        assert each.recv(1) == b"H"
        wait_for(lambda: not found._open, "hung up on")


def test_places_are_a_share_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for soft in (100, 256, 1024, 1 << 20, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, soft=soft: (soft, soft))
        found.append(places())
    assert found == [8, 16, 64, 64, 64]


def test_the_oldest_makes_room(server) -> None:
    found = server()
    with connections(found.port, places(), HALF) as held:
        assert ask(found, WHOLE)[0] == "200 OK"
        assert read_all(held[0]) == b""
        held[-1].sendall(b"\r\n")
        assert read_all(held[-1]).startswith(b"HTTP/1.1 200")


def test_who_has_just_come_makes_no_room(server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser connects, and sends its request a moment later; one more waits until then."""
    monkeypatch.setattr(http, "GRACE_S", 3600)
    monkeypatch.setattr(http, "REQUEST_S", 3600)
    found = server()
    with connections(found.port, places(), b"") as held, connections(found.port, 1, WHOLE) as more:
        wait_for(lambda: len(found._open) == places(), "every place taken")
        for each in held:
            each.sendall(WHOLE)
            assert read_all(each).startswith(b"HTTP/1.1 200")
        assert read_all(more[0]).startswith(b"HTTP/1.1 200")


def test_no_descriptor_for_a_moment(server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.accept
    failed: list[int] = []

    def accept(self: socket.socket):
        if not failed:
            failed.append(1)
            raise OSError(24, "Too many open files")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert ask(server(), WHOLE)[0] == "200 OK"
    assert failed
