"""The watchdog's decisions in states that a real VM is seldom in, and peers that are no QEMU."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.errors import EngineError, PeerError, SourceError, UsageError
from pagecheck.vmm import QemuMonitor
from tests.support.qmp import FakeQemu, fake_qemu, in_watchdog
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("clean")

BOUND_S = 12.0  # 5 s for a peer that says nothing, and a start on a busy machine


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as fake:
        yield fake


@pytest.mark.long(but="paused")
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
        assert monitor.resume()[:4] == (0, still, False, False)
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
        assert monitor.resume()[1:4] == (False, False, True)
        assert qemu.status == "running"


@pytest.mark.parametrize(
    "status",
    ["setup", "wait-unplug", "active", "pre-switchover", "postcopy-active", "of-a-later-qemu"],
)
def test_no_pause_during_a_migration(qemu: FakeQemu, status: str) -> None:
    qemu.answers["query-migrate"] = {"status": status}
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(SourceError, match=rf"during its migration \({status}\)"):
            monitor.pause(60)
        assert qemu.status == "running"
        assert "stop" not in qemu.commands


@pytest.mark.parametrize("status", ["none", "completed", "failed", "cancelled"])
def test_a_migration_that_is_over_does_not_matter(qemu: FakeQemu, status: str) -> None:
    qemu.answers["query-migrate"] = {"status": status, "total-time": 7}
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        assert monitor.resume().stood_still
    assert qemu.status == "running"


def test_a_migration_that_begins_right_before_the_stop(qemu: FakeQemu) -> None:
    qemu.answers["query-migrate"] = lambda _arguments: (
        {"status": "active"} if "stop" in qemu.commands else {}
    )
    with QemuMonitor(str(qemu.path)) as monitor:
        with pytest.raises(SourceError, match=r"during its migration \(active\)"):
            monitor.pause(60)
        assert qemu.status == "running"
    assert qemu.commands.count("cont") == 1


@pytest.mark.parametrize(
    ("status", "migration"),
    [
        ("postmigrate", "completed"),
        ("finish-migrate", "postcopy-active"),
        ("finish-migrate", "postcopy-paused"),
        ("prelaunch", "completed"),  # reset afterwards
    ],
)
def test_a_vm_that_was_migrated_away_is_not_started_again(
    qemu: FakeQemu, status: str, migration: str
) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.status = status
        qemu.answers["query-migrate"] = {"status": migration, "total-time": 7}
        with pytest.raises(SourceError, match="at its destination: run cont there"):
            monitor.resume()
        with pytest.raises(UsageError, match="is not paused"):
            monitor.resume()
    assert "cont" not in qemu.commands


def test_a_vm_that_was_migrated_away_and_the_scan_ended_badly(
    qemu: FakeQemu, caplog: pytest.LogCaptureFixture
) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.status = "postmigrate"
        qemu.answers["query-migrate"] = {"status": "completed"}
    assert "cont" not in qemu.commands
    assert [each.levelno for each in caplog.records] == [logging.WARNING]
    assert "run cont there" in caplog.text


def test_a_reset_after_a_migration_of_the_past(qemu: FakeQemu) -> None:
    qemu.answers["query-migrate"] = {"status": "completed", "total-time": 7}
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.status, qemu.events = "prelaunch", ["RESET"]
        assert not monitor.resume().stood_still
    assert qemu.status == "running"


@pytest.mark.parametrize("migration", ["failed", "cancelled"])
def test_a_migration_that_fails_at_its_end(qemu: FakeQemu, migration: str) -> None:
    """QEMU leaves "postmigrate" then, and the VM is at home still."""
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.status = "postmigrate"
        qemu.answers["query-migrate"] = {"status": migration}
        assert monitor.resume()[1:4] == (False, False, True)
    assert qemu.status == "running"


def test_a_migration_that_begins_and_goes_on(qemu: FakeQemu) -> None:
    """The VM runs when it ends, so that it runs at the destination, too."""
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.answers["query-migrate"] = {"status": "active"}
        assert monitor.resume().stood_still
    assert qemu.status == "running"


def test_it_waits_for_the_end_of_a_migration(qemu: FakeQemu) -> None:
    states = iter(["finish-migrate", "finish-migrate", "finish-migrate"])

    def status(_arguments: object) -> dict[str, object]:
        return {"status": next(states, qemu.status), "running": False}

    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.answers["query-status"] = status
        assert monitor.resume().stopped_by_us
    assert qemu.commands.count("cont") == 1


@pytest.mark.parametrize("command", ["stop", "cont"])
def test_a_signal_while_it_is_stopped_or_continued(qemu: FakeQemu, command: str) -> None:
    """It comes when QEMU has done it, and nobody here knows of that yet: the VM runs before
    anything else is done."""

    def interrupted(_arguments: object) -> dict[str, object]:
        qemu.status = {"stop": "paused", "cont": "running"}[command]
        del qemu.answers[command]
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        return {}

    qemu.answers[command] = interrupted
    with QemuMonitor(str(qemu.path)) as monitor:
        if command == "cont":
            monitor.pause(60)
        with pytest.raises(KeyboardInterrupt):
            monitor.pause(60) if command == "stop" else monitor.resume()
        assert qemu.status == "running"
        assert monitor.held is None
        monitor.pause(60)
        assert monitor.resume().stood_still


def test_the_guard_takes_no_signal_that_is_held_later(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        (guard,) = [each for each in threading.enumerate() if each.name == "pagecheck-guard"]
        status = Path(f"/proc/self/task/{guard.native_id}/status").read_text()
        blocked = int(re.findall(r"^SigBlk:\s*(\w+)$", status, re.MULTILINE)[0], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert blocked & 1 << number - 1


def test_it_is_left_stopped(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        result = monitor.resume(leave_stopped=True)
        assert (result.stood_still, result.stopped_by_us, result.left_stopped) == (True,) * 3
        monitor.pause(60)  # it is somebody else's now
        assert monitor.resume()[1:] == (True, False, False, False)
    assert qemu.status == "paused"
    assert "cont" not in qemu.commands


def test_it_is_left_stopped_only_at_the_end(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
    assert qemu.status == "running"


def test_it_is_not_left_stopped_where_it_moved(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.events = ["RESET"]
        assert not monitor.resume(leave_stopped=True).left_stopped
    assert qemu.status == "running"


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


def test_since_when_it_is_held(qemu: FakeQemu) -> None:
    """Of the pause that holds it, whatever is asked for meanwhile; also one that does not end."""

    def refuse(_arguments: object) -> None:
        raise RuntimeError("not today")

    with QemuMonitor(str(qemu.path)) as monitor:
        assert monitor.held is None
        monitor.pause(60)
        held = monitor.held
        assert held is not None
        assert held[1] == 60
        qemu.answers["cont"] = refuse
        with pytest.raises(PeerError, match="QEMU refused cont: not today"):
            monitor.resume()
        with pytest.raises(UsageError, match="is paused already"):
            monitor.pause(30)
        assert monitor.held == held
        del qemu.answers["cont"]
        assert monitor.resume().stood_still
        assert monitor.held is None
        monitor.pause(20)
        since, most = monitor.held or held
        assert since > held[0]
        assert most == 20


def test_a_missing_library_is_said(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    in_watchdog(monkeypatch, "sys.modules['qemu.qmp'] = None")
    with pytest.raises(EngineError, match=r"pip install qemu\.qmp"):
        QemuMonitor(str(qemu.path))


def test_a_watchdog_that_cannot_start(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    in_watchdog(monkeypatch, "raise SystemExit(7)")
    with pytest.raises(EngineError, match="exited with status 7, before it was ready"):
        QemuMonitor(str(qemu.path))


@pytest.mark.parametrize("deaths", [1, 4])
def test_a_watchdog_that_is_killed_while_it_starts(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deaths: int
) -> None:
    """A death like any other: it has stopped nothing yet, and another one is started."""
    lives = tmp_path / "lives"
    lives.mkdir()
    for number in range(deaths):
        (lives / str(number)).touch()
    in_watchdog(
        monkeypatch,
        "import os; "
        f"names = os.listdir({str(lives)!r}); "
        f"names and (os.unlink({str(lives)!r} + '/' + names[0]), os.kill(os.getpid(), 9))",
    )
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        assert qemu.status == "paused"
        monitor.resume()
    assert qemu.status == "running"
    assert list(lives.iterdir()) == []


def refuse(_arguments: object) -> None:
    raise RuntimeError("never")


def left_watchdog(caplog: pytest.LogCaptureFixture) -> psutil.Process:
    """The watchdog that stays, by what was said of it."""
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    match = re.search(r"the VM is stopped: watchdog (\d+) stays and continues it", said.message)
    assert match is not None
    return psutil.Process(int(match[1]))


def test_a_vm_that_cannot_be_continued_keeps_its_watchdog(
    qemu: FakeQemu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it; it goes on trying, says so where it can be read, and ends with it."""
    in_watchdog(monkeypatch, "import pagecheck.vmm.hold.watchdog as w; w.END_S = 0.3")
    qemu.answers["cont"] = refuse
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
    watchdog = left_watchdog(caplog)
    said = Path(f"/proc/{watchdog.pid}/fd/2")
    refused = "QEMU refused cont: never; the VM is stopped"
    wait_for(lambda: refused in said.read_text(), refused)
    assert qemu.status == "paused"
    del qemu.answers["cont"]
    watchdog.wait(BOUND_S)
    assert qemu.status == "running"


def test_a_watchdog_that_stays_ends_with_the_vm(
    qemu: FakeQemu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_watchdog(monkeypatch, "import pagecheck.vmm.hold.watchdog as w; w.END_S = 0.3")
    qemu.answers["cont"] = refuse
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
    watchdog = left_watchdog(caplog)
    qemu.end()  # its process, which is ours, lives on
    watchdog.wait(BOUND_S)


def test_a_cont_without_an_answer(
    qemu: FakeQemu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that the watchdog stays, and then it is not said again."""
    in_watchdog(monkeypatch, "import pagecheck.vmm.hold.monitor as m; m.COMMAND_S = 0.3")
    out: list[object] = []

    def keep(asked: object) -> bytes:
        out.append(asked)
        return b""

    qemu.raw["cont"] = keep
    stays = r"did not answer cont in .*; the VM is stopped: watchdog \d+ stays and continues it"
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match=stays) as caught:
            monitor.resume()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    watchdog = psutil.Process(int(str(caught.value).split("watchdog ")[1].split()[0]))
    del qemu.raw["cont"]
    qemu.status = "running"
    qemu.say(
        json.dumps({"event": "RESUME", "timestamp": {"seconds": 0, "microseconds": 0}}).encode()
        + b"\n"
    )
    qemu.say(json.dumps({"return": {}, "id": out[0]}).encode() + b"\n")
    watchdog.wait(BOUND_S)
    assert "cont" not in qemu.commands[qemu.commands.index("cont") + 1 :]


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
        with pytest.raises(SourceError, match="accepts no connection in 5 s"):
            QemuMonitor(path)
        assert time.monotonic() - begun < BOUND_S


def test_a_path_that_leads_to_no_qemu(tmp_path: Path) -> None:
    file, dead = tmp_path / "file", tmp_path / "dead"
    file.write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path, message in {
        tmp_path / "missing": "nobody listens.*start QEMU with -qmp",
        file: "is not a socket",
        dead: "nobody listens",
        tmp_path / ("x" * 120): "nobody listens|too long",
    }.items():
        with pytest.raises(SourceError, match=message):
            QemuMonitor(str(path))
    with pytest.raises(SourceError, match="not a path of a socket"):
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


def test_descriptors_go_to_qemu_and_are_closed_on_the_way(qemu: FakeQemu) -> None:
    taken: list[bytes] = []

    def take(_arguments: object) -> dict[str, int]:
        (fd,) = qemu.fds
        taken.append(os.pread(fd, 16, 0))
        os.close(qemu.fds.pop())
        return {"fd": 7}

    qemu.answers["add-fd"] = take
    with QemuMonitor(str(qemu.path)) as monitor, tempfile.TemporaryFile() as file:
        file.write(b"for QEMU")
        file.flush()
        watchdog = psutil.Process(monitor._process.pid)  # type: ignore[union-attr]
        before = watchdog.num_fds()
        for _ in range(3):
            assert monitor.execute("add-fd", (file.fileno(),), opaque="x") == {"fd": 7}
        with pytest.raises(PeerError, match="refused getfd"):
            monitor.execute("getfd", (file.fileno(),), fdname="x")
        assert watchdog.num_fds() == before
    assert taken == [b"for QEMU"] * 3
