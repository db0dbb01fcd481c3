"""`Client` against peers that are no service, or a bad one."""

import contextlib
import gc
import json
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pagecheck import Client
from pagecheck.errors import LimitError, PeerError, UsageError
from pagecheck.service.protocol import common_layout

GREETING = {"pagecheck": {"version": "0", "protocol": 1, "layout": 3, "limits": {}}}
Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def peer(serve: Serve) -> Iterator[str]:
    """A socket whose one client is served by a function."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = f"{folder}/s"
        listening.bind(path)
        listening.listen()

        def accept() -> None:
            connected, _ = listening.accept()
            with connected, contextlib.suppress(OSError):
                serve(connected)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield path
        thread.join(10)


def lines(*messages: object) -> Serve:
    """Says these, then reads what comes until the end."""

    def serve(connected: socket.socket) -> None:
        for message in messages:
            connected.sendall(json.dumps(message).encode() + b"\n")
        while connected.recv(4096):
            pass

    return serve


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (lambda s: s.close(), "hung up"),
        (lambda s: s.sendall(b"SSH-2.0-x\n"), "not JSON"),
        (lambda s: s.sendall(b"[1]\n"), "not a JSON object"),
        (lambda s: s.sendall(b"x" * (1 << 26) + b"x" * 8), "line of more than"),
        (lines({"QMP": {}}), "does not greet"),
        (lines({"pagecheck": {"protocol": 2}}), "speaks protocol 2, we speak 1"),
        (lines({"error": "odd"}), "an unknown form"),
        (lines({"error": {"class": "Strange", "desc": "said so"}}), "said so"),
        (lines({"error": {"class": "__class__", "desc": "said so"}}), "said so"),
    ],
)
def test_no_service(serve: Serve, said: str) -> None:
    gc.collect()  # what other tests left to be closed
    before = len(os.listdir("/proc/self/fd"))
    with peer(serve) as path, pytest.raises((PeerError, LimitError), match=said):
        Client(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_silent_one_is_given_up_in_time() -> None:
    began = time.monotonic()
    with peer(lines()) as path, pytest.raises(PeerError, match="in time"):
        Client(path, timeout=0.2)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("path", ["/nonexistent/socket", "/etc/passwd", "x" * 300, "a\0b"])
def test_nobody_there(path: str) -> None:
    with pytest.raises(PeerError, match="no service there"):
        Client(path)


def test_a_time_that_is_no_number() -> None:
    with pytest.raises(UsageError, match="nan: is not a number of seconds"):
        Client("/nowhere", timeout=math.nan)


def test_errors_come_as_their_class() -> None:
    told = {"error": {"class": "UsageError", "desc": "block 7: is not attached"}, "id": 1}
    with (
        peer(lines(GREETING, told)) as path,
        Client(path) as client,
        pytest.raises(UsageError, match="block 7"),
    ):
        client.blocks()


def test_answers_to_others_and_events_are_passed_over() -> None:
    events: list[dict[str, int]] = []
    said = [
        {"event": "PROGRESS", "data": {"done": 1}, "id": 1},
        {"event": "PROGRESS", "data": {"done": 2}, "id": 9},
        {"return": {"wrong": True}, "id": 0},
        {"return": {"right": True}, "id": 1},
    ]
    with peer(lines(GREETING, *said)) as path, Client(path) as client:
        reply, fds = client.execute("check", on_event=events.append)
    assert reply == {"right": True}
    assert events == [{"done": 1}]
    assert fds == []


def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    def serve(connected: socket.socket) -> None:
        with open(os.devnull) as null:
            line = json.dumps(GREETING).encode() + b"\n"
            socket.send_fds(connected, [line], [null.fileno()] * 3)
            connected.recv(10)

    gc.collect()  # what other tests left to be closed
    before = len(os.listdir("/proc/self/fd"))
    with peer(serve) as path:
        Client(path).close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "versions",
    [{"layout": 2}, {"layout": 4, "layouts": [4, 5]}, {"layout": 3, "layouts": [4]}, {}],
)
def test_a_service_of_other_layouts_only_is_refused_a_channel(versions: dict) -> None:
    greeting = {"version": "9.1", "protocol": 1, "limits": {}, "capabilities": [], **versions}
    said = r"pagecheck 9\.1 lays channels out as .* we as 3; "
    with (
        peer(lines({"pagecheck": greeting})) as path,
        Client(path) as client,
        pytest.raises(PeerError, match=said),
    ):
        client.open_channel()


def test_the_highest_common_layout_is_taken() -> None:
    assert common_layout((3, 4, 5), [9, 4, 3]) == 4
    assert common_layout((3,), [4]) is None
    assert common_layout((3,), []) is None
