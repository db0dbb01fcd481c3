"""The manners of `pagecheck serve`: where it listens, what it tells systemd, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pagecheck.service.protocol import CAPABILITIES, PROTOCOL
from tests.support.command import PAGECHECK, assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.processes import living
from tests.support.raw_client import RawClient, greeting_of
from tests.support.service import ServiceProcess, StartService
from tests.support.waiting import wait_for

# Hands the listening descriptor on as systemd does: as 3, and LISTEN_PID is who executes.
AS_SYSTEMD = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_FDS'] = sys.argv[2]; "
    "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[3], sys.argv[3:])"
)


@pytest.fixture
def listening(short_folder: Path) -> Any:
    """A launcher's listening socket at `short_folder / "given"`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(str(short_folder / "given"))
        bound.listen(8)
        yield bound


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def as_by_systemd(listening: socket.socket, count: int = 1) -> list[str]:
    fd = str(listening.fileno())
    return [sys.executable, "-c", AS_SYSTEMD, fd, str(count), PAGECHECK, "serve"]


def test_the_socket_is_ours_alone(start_service: StartService) -> None:
    before = os.umask(0)
    try:
        service = start_service()
    finally:
        os.umask(before)
    assert mode_of(service.path) == 0o600


def test_the_socket_is_for_everybody_with_allow_uid(start_service: StartService) -> None:
    assert mode_of(start_service("--allow-uid", 12345).path) == 0o666


def test_it_greets_with_its_limits(start_service: StartService) -> None:
    service = start_service("--max-clients", 3, "--max-channels", 2, "--max-pause", 0.5)
    limits = greeting_of(service.path)["pagecheck"]["limits"]
    assert (limits["clients"], limits["channels"], limits["pause_seconds"]) == (3, 2, 0.5)


def test_an_inherited_descriptor(start_service: StartService, listening: socket.socket) -> None:
    fd, path = listening.fileno(), listening.getsockname()
    command = [PAGECHECK, "serve", "--fd", str(fd)]
    service = start_service(path=path, command=command, pass_fds=(fd,))
    assert service.stop() == 0
    assert os.path.lexists(path)  # the launcher's to remove


def test_systemd_passes_the_socket_on(
    start_service: StartService, listening: socket.socket
) -> None:
    options = {"path": listening.getsockname(), "pass_fds": (listening.fileno(),)}
    service = start_service(command=as_by_systemd(listening), **options)
    workers = [child.environ() for child in service.children()]
    assert len(workers) == 2
    assert not any("LISTEN_FDS" in environment for environment in workers)
    assert service.stop() == 0
    assert os.path.lexists(service.path)


def test_systemd_passes_two(listening: socket.socket) -> None:
    *program, _serve = as_by_systemd(listening, 2)
    done = run_pagecheck_as([*program, "serve"], listening)
    assert_fails(done, 2, "systemd passed 2 sockets")


def run_pagecheck_as(command: list[str], listening: socket.socket) -> Any:
    fds = (listening.fileno(),)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, pass_fds=fds)


def test_sockets_for_another_process_are_not_taken() -> None:
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    assert_fails(pagecheck("serve", env=environment), 2, "no socket")


@pytest.mark.parametrize("abstract", [False, True])
def test_it_notifies(start_service: StartService, short_folder: Path, abstract: bool) -> None:
    name = f"@pcs-notify-{os.getpid()}" if abstract else str(short_folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(name.replace("@", "\0"))
        notified.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": name}
        service = start_service(env=environment, ready=False)
        assert "READY=1" in notified.recv(1000).decode().split("\n")
        service.await_ready()
        service.process.send_signal(signal.SIGTERM)
        assert notified.recv(1000) == b"STOPPING=1"
        assert service.stop() == 0


def test_print_capabilities() -> None:
    done = pagecheck("serve", "--print-capabilities")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"protocol": PROTOCOL, "features": list(CAPABILITIES)}


def test_a_stale_socket_is_replaced(start_service: StartService, short_folder: Path) -> None:
    path = str(short_folder / "stale")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    assert start_service(path=path).stop() == 0


def test_a_living_socket_is_refused(service: ServiceProcess) -> None:
    inode = os.lstat(service.path).st_ino
    done = pagecheck("serve", "--socket", service.path)
    assert_fails(done, 2, service.path, "another process listens there")
    assert os.lstat(service.path).st_ino == inode
    assert "pagecheck" in greeting_of(service.path)


def test_a_socket_with_a_full_queue_is_alive(short_folder: Path) -> None:
    path = str(short_folder / "full")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waits,
    ):
        bound.bind(path)
        bound.listen(0)
        waits.connect(path)
        assert_fails(pagecheck("serve", "--socket", path), 2, "another process listens there")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda p: p.symlink_to("/nowhere")])
def test_what_is_no_socket_is_left_alone(make: Any, short_folder: Path) -> None:
    path = short_folder / "thing"
    make(path)
    before = os.lstat(path)
    assert_fails(pagecheck("serve", "--socket", path), 2, "is not a socket")
    after = os.lstat(path)
    for what in ("st_ino", "st_mode", "st_size", "st_mtime_ns"):
        assert getattr(after, what) == getattr(before, what)


def test_a_path_that_became_another_s_is_left_alone(start_service: StartService) -> None:
    service = start_service()
    os.unlink(service.path)
    Path(service.path).write_text("another's")
    service._removes_path = False
    assert service.stop() == 0
    assert Path(service.path).read_text() == "another's"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_at_once_when_idle(service: ServiceProcess, number: signal.Signals) -> None:
    with RawClient(service.path) as client:
        client.receive()
        started = time.monotonic()
        assert service.stop(number) == 0
        assert time.monotonic() - started < 2
        with pytest.raises(EOFError):
            client.receive()


def slow_check(client: RawClient, seconds: float) -> KnownRam:
    """Begins a check that takes about so long; returns when it has begun."""
    ram = KnownRam(1024, kinds=["random"])
    client.receive()
    client.result("attach", {"holes": "read"}, [ram.fd])
    rate = int(ram.size / seconds)
    asked = {"block": 0, "max_rate": rate, "progress": True}
    client.send({"execute": "check", "arguments": asked, "id": "slow"})
    assert client.receive()[0]["event"] == "PROGRESS"
    return ram


def rest_of(client: RawClient) -> list[dict[str, Any]]:
    """Every line until the service hangs up."""
    lines = []
    with contextlib.suppress(EOFError):
        while True:
            lines.append(client.receive()[0])
    return lines


def test_a_check_that_runs_may_end(service: ServiceProcess) -> None:
    with RawClient(service.path) as client:
        ram = slow_check(client, 0.4)
        service.process.send_signal(signal.SIGTERM)
        while "event" in (line := client.receive()[0]):
            pass
        assert line["return"]["blocks"][0]["counts"]["normal"] == ram.pages
        assert service.stop() == 0
        ram.close()


def test_a_check_that_takes_too_long_is_ended(service: ServiceProcess) -> None:
    with RawClient(service.path) as client:
        ram = slow_check(client, 600)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 4
        assert all("event" in line for line in rest_of(client))
        ram.close()


def test_a_client_that_hangs_up_ends_its_check(service: ServiceProcess) -> None:
    """Also where it asked for no events, so that nothing is sent that would tell of its end."""
    ram = KnownRam(1024, kinds=["random"])
    with RawClient(service.path) as other:
        other.receive()

        def clients() -> list[dict[str, Any]]:
            return [
                each
                for each in other.result("query-stats")["sessions"]
                if each["doing"] != "query-stats"
            ]

        with RawClient(service.path) as client:
            client.receive()
            client.result("attach", {}, [ram.fd])
            asked = {"block": 0, "max_rate": 4096}
            client.send({"execute": "check", "arguments": asked})
            wait_for(lambda: [each["doing"] for each in clients()] == ["check"], "the check runs")
        wait_for(lambda: clients() == [], "the client is forgotten", 3)
        assert other.result("query-stats")["blocks"] == 0
    ram.close()


def test_a_client_that_does_not_read_does_not_hold_it_up(service: ServiceProcess) -> None:
    with RawClient(service.path) as deaf:
        deaf.receive()
        deaf.socket.settimeout(0.2)
        line = b'{"execute":"query-stats"}\n' * 1000
        with contextlib.suppress(TimeoutError):
            while True:
                deaf.socket.sendall(line)
        assert "pagecheck" in greeting_of(service.path)
        assert service.stop() == 0


def test_a_killed_service_is_swept_away(start_service: StartService) -> None:
    service = start_service()
    with RawClient(service.path) as client:
        client.receive()
        client.result("open-channel")
        ram = KnownRam(16)
        client.result("attach", {}, [ram.fd])
        workers = service.children()
        assert len(workers) == 3
        service.kill()
        ram.close()
    assert not living(workers)
    names = service.names()
    assert names
    for name in names:  # older than what a start leaves alone
        os.utime(f"/dev/shm/{name}", (0, 0))
    assert start_service(path=service.path).stop() == 0
    assert service.names() == []


def test_two_services_side_by_side(start_service: StartService, known_ram: KnownRam) -> None:
    one, two = start_service(), start_service()
    assert one.prefix != two.prefix
    for service in (one, two):
        with RawClient(service.path) as client:
            client.receive()
            client.result("attach", {}, [known_ram.fd])
            counts = client.result("check", {"block": 0})["blocks"][0]["counts"]
            assert counts["zero"] == int(known_ram.zero.sum())
    assert one.stop() == 0
    assert "pagecheck" in greeting_of(two.path)


def test_more_clients_than_may_be(start_service: StartService) -> None:
    service = start_service("--max-clients", 2)
    with RawClient(service.path) as one, RawClient(service.path) as two:
        assert "pagecheck" in one.receive()[0]
        assert "pagecheck" in two.receive()[0]
        error = greeting_of(service.path)["error"]
        assert error["class"] == "LimitError"
        assert "2 clients" in error["desc"]
        two.close()
        wait_for(lambda: "pagecheck" in greeting_of(service.path), "a place is free", 3)


def test_a_check_does_not_hold_others_up(service: ServiceProcess, known_ram: KnownRam) -> None:
    with RawClient(service.path) as slow, RawClient(service.path) as quick:
        slow_check(slow, 600).close()
        quick.receive()
        quick.result("attach", {}, [known_ram.fd])
        results: list[Any] = []

        def check() -> None:
            results.append(quick.result("check", {"block": 0}))

        thread = threading.Thread(target=check)
        thread.start()
        thread.join(20)
        assert results[0]["blocks"][0]["counts"]["zero"] == int(known_ram.zero.sum())


@pytest.mark.long(but="arguments1")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["no socket"]),
        (["--socket", ""], 2, ["no socket"]),
        (["--socket", "{path}", "--fd", "3"], 2, ["exclude each other"]),
        (["--fd", "-1"], 2, ["--fd", "-1"]),
        (["--fd", "99999999999"], 2, ["--fd"]),
        (["--socket", "{path}", "--max-block-size", "0"], 2, ["max block size"]),
        (["--socket", "{path}", "--max-pause", "inf"], 2, ["max pause"]),
        (["--fd", "0"], 2, ["--fd 0", "is not a socket"]),
        (["--fd", "900"], 2, ["--fd 900", "Bad file descriptor"]),
        (["--socket", "/nowhere/socket"], 4, ["/nowhere/socket", "No such file"]),
        (["--socket", "/tmp/" + "x" * 120], 4, ["too long"]),
        (["--socket", "{path}", "--engine", "none"], 2, ["engine none"]),
        (["--socket", "{path}", "--kernel", "abacus"], 2, ["abacus"]),
        (["--socket", "{path}", "--channels", "0"], 2, ["0 channels"]),
        (["--socket", "{path}", "--wq", "nonsense"], 2, ["nonsense"]),
        (["--socket", "{path}", "--allow-uid", "-5"], 2, ["--allow-uid"]),
        (["--socket", "{path}", "--max-block-size", "much"], 2, ["much"]),
        (["--socket", "{path}", "--max-pause", "nan"], None, ["max pause"]),
        (["--socket", "{path}", "--max-clients", "0"], None, ["0 clients"]),
        (["--socket", "{path}", "--max-channels", "257"], None, ["257 channels"]),
        (["--socket", "{path}", "--no-such-option"], 2, ["--no-such-option"]),
    ],
)
def test_bad_options(
    arguments: list[str], code: int | None, words: list[str], short_folder: Path
) -> None:
    path = short_folder / "s"
    given = [argument.format(path=path) for argument in arguments]
    done = pagecheck("serve", *given, stdin=subprocess.DEVNULL)
    assert_fails(done, done.returncode if code is None else code, *words)
    assert done.returncode in (2, 4)
    assert not path.exists()


def test_an_inherited_socket_of_the_wrong_kind() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf,
    ):
        for fd, word in ((tcp.fileno(), "not a Unix stream socket"), (deaf.fileno(), "not listen")):
            assert_fails(pagecheck("serve", "--fd", fd, pass_fds=(fd,)), 2, word)
