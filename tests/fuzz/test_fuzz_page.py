"""Whatever is sent to the metrics' and the page's address: one well-formed answer that forbids a
browser what it should, and nothing of the page for whoever names another host."""

from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pagecheck.service.http import REQUEST_BYTES, HttpServer, Page, Request
from pagecheck.service.page.routes import for_host

SECRET = b"what the page shows"
LINES = [
    *(b"GET / HTTP/1.1", b"HEAD / HTTP/1.0", b"GET /picture/1.png HTTP/1.1", b"POST / HTTP/1.1"),
    *(b"GET /../../etc/passwd HTTP/1.1", b"GET %2f HTTP/1.1", b"GET", b"", b"\x00", b"\x85"),
    *(b"Host: localhost", b"Host: attacker.example", b"host:127.0.0.1:1", b" Host: [::1]"),
    *(b"Host", b": localhost", b"X: \xff\xfe", b"\tHost: localhost", b"Accept: text/html"),
    *(b"Transfer-Encoding: chunked", b"Content-Length: 5", b"Connection: upgrade", b"a" * 9000),
]
REQUESTS = st.one_of(
    st.lists(st.sampled_from(LINES), max_size=8).map(lambda lines: b"\r\n".join(lines)),
    st.binary(max_size=300),
)


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    def show(_request: Request) -> Page:
        return Page("text/html", SECRET)

    routes = {path: for_host("127.0.0.1", show) for path in ("/", "/picture/")}
    found = HttpServer(("127.0.0.1", 0), routes)
    yield found
    found.close()


@settings(max_examples=500, deadline=None)
@given(REQUESTS)
@example(b"GET / HTTP/1.1\r\nHost: localhost")
@example(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example")
@example(b"GET / HTTP/1.1\r\nHost: attacker.example\x85Host: localhost")
def test_any_request(server: HttpServer, asked: bytes) -> None:
    sent = asked + b"\r\n\r\n"
    answer = server._answer(sent)
    reader = h11.Connection(h11.CLIENT)
    method = "HEAD" if sent.split()[:1] == [b"HEAD"] else "GET"
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer)
    reader.receive_data(b"")
    head = reader.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code in (200, 400, 403, 404, 405, 431)
    headers = dict(head.headers)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"content-security-policy"].startswith(b"default-src 'none';")
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    if SECRET in body:
        assert b"attacker" not in sent.partition(b"\r\n\r\n")[0]
        assert head.status_code == 200
    if len(sent) > REQUEST_BYTES:
        assert head.status_code == 431
