"""Peers that are no QEMU, or a broken one: their fault, one line, and no wait for ever."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm import QemuMonitor
from tests.support.qmp import FakeQemu, fake_qemu, in_watchdog, served
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("clean")

BOUND_S = 12.0  # 5 s for a peer that says nothing, and a start on a busy machine


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as fake:
        yield fake


@contextlib.contextmanager
def peer(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listens on a path, and talks to one client."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                talk(client)

    with served(serve, listener):
        yield


def until_closed(client: socket.socket) -> None:
    while client.recv(4096):
        pass


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "no QMP greeting in 5 s.*one client at a time"),
        (b"220 mail ready\r\n", "does not speak QMP"),
        (b"[]\n", "does not speak QMP"),
        (b'{"QMP": 5}\n', "does not speak QMP"),
        (b'{"QMP": {"version": {}, "capabilities": []}}\nnonsense\n', "does not speak QMP"),
        (b"\xff\xfe\n", "does not speak QMP"),
    ],
)
def test_a_peer_that_is_no_qemu(tmp_path: Path, said: bytes, message: str) -> None:
    def talk(client: socket.socket) -> None:
        client.sendall(said)
        until_closed(client)

    begun = time.monotonic()
    with peer(tmp_path / "qmp", talk), pytest.raises(PeerError, match=message) as caught:
        QemuMonitor(str(tmp_path / "qmp"))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < BOUND_S


def test_a_peer_that_hangs_up(tmp_path: Path) -> None:
    with peer(tmp_path / "qmp", lambda _client: None), pytest.raises(PeerError, match="QMP"):
        QemuMonitor(str(tmp_path / "qmp"))


def answer(value: Any, asked: Any) -> bytes:
    return json.dumps({"return": value, "id": asked}).encode() + b"\n"


NONSENSE: dict[str, Callable[[Any], bytes | None]] = {
    "hangs up": lambda _id: None,
    "no JSON": lambda _id: b"220 mail ready\r\n",
    "half a line": lambda _id: b'{"return": {}, "id\n',
    "no UTF-8": lambda _id: b'{"return": "\xff\xfe"}\n',
    "no object": lambda _id: b"[]\n",
    "megabytes without an end": lambda _id: b'"' + b"a" * (24 << 20),
    "nested deeply": lambda _id: b'{"return": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "a number of too many digits": lambda _id: b'{"return": ' + b"9" * 5000 + b"}\n",
    "an id that is a list": lambda _id: b'{"return": {}, "id": []}\n',
    "an event without a name": lambda _id: b'{"event": []}\n',
    "an error without an id": lambda _id: b'{"error": {"class": "X", "desc": "no"}}\n',
    "neither return nor error": lambda asked: json.dumps({"id": asked}).encode() + b"\n",
    "an error of no form": lambda asked: json.dumps({"error": 5, "id": asked}).encode() + b"\n",
    "an error that is a list": lambda asked: (
        json.dumps({"error": {"class": "X", "desc": ["\x1b[2J"]}, "id": asked}).encode() + b"\n"
    ),
}


@pytest.mark.long(but="hangs up")
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_in_place_of_an_answer(qemu: FakeQemu, what: str) -> None:
    qemu.raw["query-memdev"] = NONSENSE[what]
    with QemuMonitor(str(qemu.path)) as monitor:
        begun = time.monotonic()
        with pytest.raises(PeerError, match=f"^{monitor.name}: ") as caught:
            monitor.execute("query-memdev")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
        assert time.monotonic() - begun < BOUND_S


def pause_and_resume(monitor: QemuMonitor) -> None:
    monitor.pause(60)
    monitor.resume()


@pytest.mark.long(but="hangs up")
@pytest.mark.parametrize("command", ["query-status", "query-migrate", "stop", "cont"])
@pytest.mark.parametrize("what", ["hangs up", "no JSON", "neither return nor error"])
def test_nonsense_around_a_pause(qemu: FakeQemu, command: str, what: str) -> None:
    """Whatever it was that failed, the VM runs in the end."""
    with QemuMonitor(str(qemu.path)) as monitor:
        nonsense = NONSENSE[what]

        def once(asked: Any) -> bytes | None:
            del qemu.raw[command]
            return nonsense(asked)

        qemu.raw[command] = once
        with pytest.raises(PeerError, match=f"^{monitor.name}: "):
            pause_and_resume(monitor)
    assert qemu.status == "running"


@pytest.mark.parametrize(
    "value", [5, [], "paused", None, {}, {"status": 5}, {"status": ["paused"]}]
)
def test_a_status_of_the_wrong_shape(qemu: FakeQemu, value: Any) -> None:
    qemu.answers["query-status"] = value
    message = f"^{qemu_name(qemu)}: the answer to query-status.*: must be"
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(PeerError, match=message):
            monitor.pause(60)
        with pytest.raises(PeerError, match=message):
            monitor.is_stopped()
    assert "stop" not in qemu.commands


@pytest.mark.parametrize("value", [5, [], None, {"status": 5}, {"status": []}])
def test_a_migration_of_the_wrong_shape(qemu: FakeQemu, value: Any) -> None:
    qemu.answers["query-migrate"] = value
    with (
        QemuMonitor(str(qemu.path)) as monitor,
        pytest.raises(PeerError, match=f"^{qemu_name(qemu)}: the answer to query-migrate"),
    ):
        monitor.pause(60)
    assert "stop" not in qemu.commands


def qemu_name(qemu: FakeQemu) -> str:
    return f"qmp:{qemu.path}"


def test_answers_that_come_twice_or_to_nobody(qemu: FakeQemu) -> None:
    qemu.raw["odd"] = lambda asked: (
        answer("to nobody", "x") + answer("to none", None) + answer(1, asked) + answer(2, asked)
    )
    with QemuMonitor(str(qemu.path)) as monitor:
        assert [monitor.execute("odd") for _ in range(3)] == [1, 1, 1]
        assert not monitor.is_stopped()


def test_what_a_peer_says_of_an_error_is_one_printable_line(qemu: FakeQemu) -> None:
    desc = "no\n\x1b[31mred\u202e\x00" + "x" * 100_000
    error = {"error": {"class": "GenericError", "desc": desc}}
    qemu.raw["odd"] = lambda asked: json.dumps({**error, "id": asked}).encode() + b"\n"
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(PeerError, match="QEMU refused odd: no ") as caught:
            monitor.execute("odd")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_an_answer_at_the_edge_of_what_can_be_read(qemu: FakeQemu) -> None:
    """Whatever depth the reader still takes, the watchdog can say so or pass it on."""
    for depth in (50, 200, 300, 320, 330, 400, 900):
        value = json.loads("[" * depth + "]" * depth)
        qemu.answers["deep"] = value
        with QemuMonitor(str(qemu.path)) as monitor:
            if depth == 50:
                assert monitor.execute("deep") == value
                continue
            with contextlib.suppress(PeerError):
                assert monitor.execute("deep") == value


def test_events_without_end(qemu: FakeQemu) -> None:
    """They are forgotten, but not that they came."""
    event = b'{"event": "RESUME", "timestamp": {"seconds": 0, "microseconds": 0}}\n'
    qemu.status = "paused"
    qemu.raw["flood"] = lambda asked: event * 20_000 + answer(7, asked)
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        assert monitor.execute("flood") == 7
        assert not monitor.resume().stood_still


def test_a_late_answer_is_nobody_elses(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was given up is answered before the next one is sent."""
    in_watchdog(monkeypatch, "import pagecheck.vmm.hold.monitor as m; m.COMMAND_S = 0.2")
    late: list[bytes] = []

    def keep(asked: Any) -> bytes:
        late.append(answer("late", asked))
        return b""

    qemu.raw["slow"] = keep
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(PeerError, match="QEMU did not answer slow in"):
            monitor.execute("slow")
        with pytest.raises(PeerError, match="QEMU did not answer an earlier command in"):
            monitor.execute("query-name")
        assert "query-name" not in qemu.commands
        qemu.say(late[0])
        with pytest.raises(PeerError, match=r"QEMU refused query-name"):
            monitor.execute("query-name")


def test_an_answer_that_came_keeps_its_connection(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long after it the next command comes: the pause is as it was."""
    waits = "m.COMMAND_S, m.ABANDON_S, m.UNREAD_S = 0.2, 0, 60"
    in_watchdog(monkeypatch, f"import pagecheck.vmm.hold.monitor as m; {waits}")
    late: list[bytes] = []
    qemu.raw["slow"] = lambda asked: late.append(answer("late", asked)) or b""
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match="QEMU did not answer slow in"):
            monitor.execute("slow")
        qemu.say(late[0])
        assert monitor.resume().stood_still


@pytest.mark.parametrize("lost", ["stop", "query-status", "cont"])
def test_an_answer_that_never_comes_leaves_no_vm_stopped(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The connection is given up for a new one."""
    in_watchdog(
        monkeypatch, "import pagecheck.vmm.hold.monitor as m; m.COMMAND_S, m.ABANDON_S = 0.2, 1"
    )

    def lose_one(_asked: Any) -> bytes:
        del qemu.raw[lost]
        qemu.status = "paused"
        return b""

    with QemuMonitor(str(qemu.path)) as monitor:
        if lost == "stop":
            qemu.raw[lost] = lose_one
            with pytest.raises(PeerError, match="QEMU did not answer stop in"):
                monitor.pause(60)
        else:
            monitor.pause(60)
            qemu.raw[lost] = lose_one
            with pytest.raises(PeerError, match=f"QEMU did not answer {lost} in"):
                monitor.resume()
    wait_for(lambda: qemu.status == "running", "the VM runs again", BOUND_S)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("hangs up", "it hung up"),
        ("no JSON", "Failed to deserialize"),
        ("megabytes without an end", "exceed the limit"),
    ],
)
def test_why_a_connection_was_lost(qemu: FakeQemu, what: str, why: str) -> None:
    qemu.raw["odd"] = NONSENSE[what]
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(PeerError, match=f"was lost at odd .*{why}.*has QEMU ended"):
            monitor.execute("odd")
        with pytest.raises(PeerError, match="is not connected"):
            monitor.execute("odd")
