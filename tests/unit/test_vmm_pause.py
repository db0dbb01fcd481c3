"""The watchdog's decisions in states that a real VM is seldom in, and peers that are no QEMU."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import EngineError, PeerError, SourceError
from pagecheck.vmm import QemuMonitor
from tests.unit.fake_qmp import FakeQemu, fake_qemu, in_watchdog

pytestmark = pytest.mark.usefixtures("clean")

BOUND_S = 12.0  # 5 s for a peer that says nothing, and a start on a busy machine


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as fake:
        yield fake


@pytest.mark.parametrize(
    ("status", "still"),
    [
        ("paused", True),
        ("prelaunch", True),
        ("internal-error", True),
        ("io-error", True),
        ("guest-panicked", True),
        ("finish-migrate", True),
        ("inmigrate", False),
        ("restore-vm", False),
        ("postmigrate", False),
        ("suspended", False),
        ("colo", False),
        ("preconfig", False),
        ("of-a-later-qemu", False),
    ],
)
def test_a_vm_that_was_not_running_is_left_as_it_is(
    qemu: FakeQemu, status: str, still: bool
) -> None:
    qemu.status = status
    with QemuMonitor(str(qemu.path)) as monitor:
        assert monitor.is_stopped() == still
        monitor.pause(60)
        assert monitor.resume() == (0, still, False, False)
    assert not {"stop", "cont"} & set(qemu.commands)


@pytest.mark.parametrize("event", ["RESUME", "RESET", "WAKEUP"])
def test_events_that_say_that_ram_moved(qemu: FakeQemu, event: str) -> None:
    qemu.status = "paused"
    with QemuMonitor(str(qemu.path)) as monitor:
        qemu.events = [event]  # from before the pause: of no importance
        monitor.pause(60)
        assert monitor.resume().stood_still
        monitor.pause(60)
        qemu.events = [event]
        assert not monitor.resume().stood_still


def test_somebody_else_continued_it_right_before_our_stop(qemu: FakeQemu) -> None:
    """Their RESUME comes with the answer to our `stop`, and the VM stands still: it is ours."""
    with QemuMonitor(str(qemu.path)) as monitor:
        qemu.events, qemu.events_before = ["RESUME"], "stop"
        monitor.pause(60)
        assert qemu.status == "paused"
        assert monitor.resume()[1:] == (False, False, True)
        assert qemu.status == "running"


def test_no_pause_during_a_migration(qemu: FakeQemu) -> None:
    qemu.answers["query-migrate"] = {"status": "active"}
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(SourceError, match="migration"):
            monitor.pause(60)
        assert qemu.status == "running"
        qemu.answers["query-migrate"] = {"status": "completed"}
        monitor.pause(60)
        assert monitor.resume().stood_still


def test_a_source_that_was_migrated_away_is_not_started_again(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.status = "postmigrate"
        result = monitor.resume()
        assert (result.stood_still, result.stopped_by_us) == (False, True)
        monitor.pause(60)
    assert "cont" not in qemu.commands


def test_it_waits_for_the_end_of_a_migration(qemu: FakeQemu) -> None:
    states = iter(["finish-migrate", "finish-migrate", "finish-migrate"])

    def status(_arguments: object) -> dict[str, object]:
        return {"status": next(states, qemu.status), "running": False}

    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.answers["query-status"] = status
        assert monitor.resume().stopped_by_us
    assert qemu.commands.count("cont") == 1


def test_a_stop_that_is_refused(qemu: FakeQemu) -> None:
    def refuse(_arguments: object) -> None:
        raise RuntimeError("not today")

    qemu.answers["stop"] = refuse
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(PeerError, match="QEMU refused stop: not today"):
            monitor.pause(60)
        del qemu.answers["stop"]
        monitor.pause(60)
        assert monitor.resume().stood_still


def test_a_cont_that_is_refused_is_tried_again_at_the_end(qemu: FakeQemu) -> None:
    tries = []

    def refuse(_arguments: object) -> dict[str, object]:
        tries.append(1)
        if len(tries) < 4:
            raise RuntimeError("not yet")
        qemu.status = "running"
        return {}

    qemu.answers["cont"] = refuse
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match="QEMU refused cont: not yet"):
            monitor.resume()
    assert qemu.status == "running"
    assert len(tries) == 4


def test_a_missing_library_is_said(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    in_watchdog(monkeypatch, "sys.modules['qemu.qmp'] = None")
    with pytest.raises(EngineError, match=r"pip install qemu\.qmp"):
        QemuMonitor(str(qemu.path))


def test_a_watchdog_that_cannot_start(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    in_watchdog(monkeypatch, "raise SystemExit(7)")
    with pytest.raises(EngineError, match="is gone, before it was ready"):
        QemuMonitor(str(qemu.path))


def test_a_vm_that_cannot_be_let_go_is_said(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_watchdog(monkeypatch, "import pagecheck.vmm.watchdog as w; w.CONTINUE_S = 0.3")

    def refuse(_arguments: object) -> None:
        raise RuntimeError("never")

    qemu.answers["cont"] = refuse
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    assert "run cont" in caplog.text


def test_other_clients_wait_in_front(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        begun = time.monotonic()
        with pytest.raises(SourceError, match="takes no connection in 5 s"):
            QemuMonitor(path)
        assert time.monotonic() - begun < BOUND_S


def test_a_path_that_leads_to_no_qemu(tmp_path: Path) -> None:
    file, dead = tmp_path / "file", tmp_path / "dead"
    file.write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path, message in {
        tmp_path / "missing": "nobody listens.*start QEMU with -qmp",
        file: "is no socket",
        dead: "nobody listens",
        tmp_path / ("x" * 120): "nobody listens|too long",
    }.items():
        with pytest.raises(SourceError, match=message):
            QemuMonitor(str(path))
    with pytest.raises(SourceError, match="no path of a socket"):
        QemuMonitor("")


def test_calls_from_two_threads_wait_for_each_other(qemu: FakeQemu) -> None:
    qemu.answers["echo"] = lambda arguments: arguments["number"]
    answers: dict[int, list[int]] = {1: [], 2: []}
    with QemuMonitor(str(qemu.path)) as monitor:

        def ask(number: int) -> None:
            answers[number] = [monitor.execute("echo", number=number) for _ in range(50)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in answers]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert answers == {1: [1] * 50, 2: [2] * 50}


def test_an_answer_that_fills_no_packet(qemu: FakeQemu) -> None:
    qemu.answers["large"] = "\u00e4\n" * 100_000
    with QemuMonitor(str(qemu.path)) as monitor:
        assert monitor.execute("large") == "\u00e4\n" * 100_000
