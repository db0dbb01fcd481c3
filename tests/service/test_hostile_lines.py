"""Lines that are none, floods, silence and sudden ends: answered or given up in bounded time, and
a second client gets right answers all the while."""

import contextlib
import json
import os
import socket
import time

import pytest

from pagecheck.service.protocol import LINE_BYTES
from tests.support.hostile import Witness, as_before, await_goodbye, connected, greeted
from tests.support.known_ram import KnownRam
from tests.support.rams import PAGE
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_for

ERRORS = ("UsageError", "PeerError", "LimitError", "SourceError")
NESTED = b"[" * 100_000

ODD_LINES = {
    "nothing": b"",
    "spaces": b" " * 1000,
    "nested": NESTED,
    "nested objects": b'{"a":' * 40_000,
    "huge integer": b'{"execute": "query-blocks", "id": ' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"execute": "detach", "arguments": {"block": 1e999}}',
    "NaN": b'{"execute": "check", "arguments": {"block": 0, "deadline": NaN}}',
    "Infinity": b'{"execute": "check", "arguments": {"block": 0, "deadline": Infinity}}',
    "NaN alone": b"NaN",
    "duplicate keys": b'{"execute": "query-blocks", "execute": "no-such"}',
    "invalid UTF-8": b'{"execute": "\xff\xfe"}',
    "half a character": b'{"execute": "query-blocks\xe2\x82"}',
    "lone surrogate": b'{"execute": "\\ud800"}',
    "lone surrogate, raw": b'{"execute": "\xed\xa0\x80"}',
    "surrogate as a name": b'{"execute": "attach", "arguments": {"name": "\\udfff"}}',
    "surrogate as a member": b'{"execute": "attach", "arguments": {"\\udfff": 1}}',
    "NUL": b'{"execute": "query\0blocks"}',
    "escaped NUL": b'{"execute": "attach", "arguments": {"source": "/tmp/\\u0000x"}}',
    "UTF-16": '{"execute": "no-such"}'.encode("utf-16-le"),
    "byte order mark": b'\xef\xbb\xbf{"execute": "no-such"}',
    "list": b"[]",
    "string": b'"query-blocks"',
    "number": b"1",
    "null": b"null",
    "unknown": b'{"execute": "no-such"}',
    "unknown member": b'{"execute": "query-blocks", "more": 1}',
    "execute is a list": b'{"execute": []}',
    "execute is an object": b'{"execute": {"execute": "query-blocks"}}',
    "arguments is null": b'{"execute": "query-blocks", "arguments": null}',
    "arguments is a list": b'{"execute": "query-blocks", "arguments": []}',
    "source is a list": b'{"execute": "attach", "arguments": {"source": []}}',
    "holes is a list": b'{"execute": "attach", "arguments": {"holes": []}}',
    "blocks are floats": b'{"execute": "check", "arguments": {"blocks": [0.0]}}',
    "block is true": b'{"execute": "detach", "arguments": {"block": true}}',
    "no blocks": b'{"execute": "check", "arguments": {"blocks": []}}',
    "a page size of 3": b'{"execute": "attach", "arguments": {"page_size": 4099}}',
    "negative": b'{"execute": "attach", "arguments": {"offset": -4096}}',
    "source of ours": b'{"execute": "attach", "arguments": {"source": "fd:3"}}',
    "source with options": b'{"execute": "attach", "arguments": {"source": "pid:1", "size": 1}}',
}


def test_lines_that_make_no_sense_are_answered_with_an_error(service):
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        for name, line in ODD_LINES.items():
            client.send(line + b"\n")
            said = client.receive()[0]
            assert said["error"]["class"] in ERRORS, (name, said)
            assert len(json.dumps(said)) < 2000, name
        assert client.result("query-blocks") == {"blocks": []}


@pytest.mark.long(but="execute")
@pytest.mark.parametrize("place", ["execute", "id", "blocks", "source", "stray"])
def test_nesting_at_the_edge_of_what_can_be_parsed(service, place):
    """What can be read must also be answered: an id is sent back."""
    line = {
        "execute": '{"execute": %s}',
        "id": '{"execute": "no-such", "id": %s}',
        "blocks": '{"execute": "check", "arguments": {"blocks": [%s]}}',
        "source": '{"execute": "attach", "arguments": {"source": %s}}',
        "stray": '{"execute": "query-blocks", "arguments": {"stray": %s}}',
    }[place]
    with as_before(service), greeted(service.path) as client:
        for depth in (*range(100, 940, 60), *range(940, 1010)):
            client.send((line % ("[" * depth + "]" * depth) + "\n").encode())
            said = client.receive()[0]
            assert said["error"]["class"] in ERRORS, (depth, said["error"])


def test_a_line_may_be_as_long_as_it_may_be_and_no_longer(service):
    with as_before(service), Witness(service.path):
        with greeted(service.path) as client:
            client.send(b" " * (LINE_BYTES - 2) + b"{}\n")
            assert client.receive()[0]["error"]["class"] == "UsageError"
        for line in (b"x" * (LINE_BYTES + 1) + b"\n", b"x" * (LINE_BYTES + 1), NESTED * 3):
            with greeted(service.path) as client:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.send(line)
                assert [each["error"]["class"] for each in await_goodbye(client)] == ["LimitError"]


def test_a_line_without_end(service):
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * LINE_BYTES:
                sent += client.socket.send(b"y" * 65536)
        assert sent < 4 * LINE_BYTES


def test_ten_thousand_commands_at_once(service):
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        line = b'{"execute": "query-blocks", "id": 1}\n'
        client.socket.settimeout(10)
        got = 0
        for _ in range(100):
            client.socket.sendall(line * 100)
            for _ in range(100):
                assert client.receive()[0] == {"return": {"blocks": []}, "id": 1}
                got += 1
        assert got == 10_000


def test_a_client_that_never_reads_is_given_up(service):
    """Its answers fill the socket; five seconds later it is gone."""
    with as_before(service), Witness(service.path) as witness, greeted(service.path) as client:
        client.socket.setblocking(False)
        line = b'{"execute": "query-stats"}\n' * 1000
        before = time.monotonic()

        def is_given_up() -> bool:
            try:
                client.socket.send(line)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        wait_for(is_given_up, "the client that does not read is given up", 15)
        assert time.monotonic() - before < 12
        assert witness.longest < 5
        client.socket.setblocking(True)


def test_a_check_with_progress_that_nobody_reads(service):
    """The socket is full before the check; its events must not hold up the end."""
    ram = KnownRam(4096, kinds=("random",))
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        number = client.result("attach", {}, [ram.fd])["block"]
        check = {"block": number, "progress": True, "max_rate": 1 << 20}
        client.socket.settimeout(1)
        fill = b'{"execute": "query-stats"}\n' * 100
        slow = json.dumps({"execute": "check", "arguments": check}).encode() + b"\n"
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            client.socket.sendall(fill + slow * 3000)
    ram.close()


def test_one_byte_at_a_time(service):
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        for byte in b'{"execute": "query-blocks", "id": "slow"}' + b" " * 3000 + b"\n":
            client.socket.send(bytes([byte]))
        assert client.receive()[0] == {"return": {"blocks": []}, "id": "slow"}


def _drop(service, stage: str, ram: KnownRam) -> None:
    if stage == "at once":
        RawClient(service.path).close()
        return
    client = connected(service.path)
    if stage == "half a line":
        client.send(b'{"execute": "query-', [ram.fd])
    elif stage == "a command":
        client.send({"execute": "query-stats"})
    elif stage == "attached":
        client.send({"execute": "attach"}, [ram.fd])
    elif stage == "checking":
        client.send({"execute": "attach"}, [ram.fd])
        client.send({"execute": "check", "arguments": {"block": 0, "max_rate": 4096}})
    elif stage == "channel":
        client.send({"execute": "open-channel"})
    client.close()


@pytest.mark.long(but="greeted")
@pytest.mark.parametrize(
    ("stage", "times"),
    [
        ("at once", 400),
        ("greeted", 300),
        ("half a line", 100),
        ("a command", 100),
        ("attached", 60),
        ("checking", 30),
        ("channel", 10),
    ],
)
def test_a_thousand_drops(service, stage, times):
    ram = KnownRam(64, kinds=("random",))
    with as_before(service), Witness(service.path):
        left = times
        while left:
            try:
                _drop(service, stage, ram)
                left -= 1
            # As many clients as may be, or a full queue: those that dropped are leaving.
            except (AssertionError, BlockingIOError):
                pass
    ram.close()


def test_more_clients_than_are_let_in(service):
    with as_before(service), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(greeted(service.path)) for _ in range(32)]
        for _ in range(5):
            with RawClient(service.path) as extra:
                assert extra.receive()[0]["error"]["class"] == "LimitError"
                with pytest.raises(EOFError):
                    extra.receive()
        for client in clients:
            assert client.result("query-blocks") == {"blocks": []}
        clients[0].close()

        def one_more() -> bool:
            with RawClient(service.path) as extra:
                return "pagecheck" in extra.receive()[0]

        wait_for(one_more, "the place of the one that left")


@pytest.mark.parametrize("half", [socket.SHUT_RD, socket.SHUT_WR])
def test_a_client_that_shuts_down_one_half(service, half):
    ram = KnownRam(64, kinds=("random",))
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        client.result("attach", {}, [ram.fd])
        client.send({"execute": "check", "arguments": {"block": 0, "max_rate": 4096}})
        client.socket.shutdown(half)
        if half == socket.SHUT_WR:
            assert await_goodbye(client) == []
    ram.close()


def test_a_slow_check_holds_nobody_up(service):
    """The witness has the same two workers."""
    with as_before(service), contextlib.ExitStack() as stack:
        for _ in range(8):
            ram = KnownRam(64, kinds=("random",))
            stack.callback(ram.close)
            client = stack.enter_context(greeted(service.path))
            client.result("attach", {}, [ram.fd])
            client.send({"execute": "check", "arguments": {"block": 0, "max_rate": 1}})
        with Witness(service.path) as witness:
            witness.await_rounds(20)
            assert witness.longest < 5


def test_ranges_by_guest_address_cannot_be_multiplied(service):
    """A line of ranges that each cross all regions would name millions of ranges."""
    regions = [
        {"guest_phys_addr": n * PAGE, "memory_size": PAGE, "mmap_offset": (n ^ 1) * PAGE}
        for n in range(1024)
    ]
    fd = os.memfd_create("regions")
    os.ftruncate(fd, 1024 * PAGE)
    with as_before(service), Witness(service.path) as witness, greeted(service.path) as client:
        number = client.result("attach", {"regions": regions}, [fd])["block"]
        every = {"gpa": 0, "size": 1024 * PAGE}
        message, fds = client.execute("check", {"block": number, "ranges": [every]})
        assert message["return"]["blocks"][0]["counts"]["zero"] == 1024
        os.close(fds[0])
        line = json.dumps(
            {"execute": "check", "arguments": {"block": number, "ranges": [every] * 8192}},
            separators=(",", ":"),
        )
        started = time.monotonic()
        client.send(line.encode() + b"\n")
        assert client.receive()[0]["error"]["class"] in ("UsageError", "LimitError")
        assert time.monotonic() - started < 5
        assert witness.longest < 5
    os.close(fd)
