"""Processes started by posix_spawn have what `subprocess` gave them, and leave as little."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck import Coordinator, aside, oneshot, scan
from pagecheck.child import process
from pagecheck.child.spawn import Process
from pagecheck.coordinator import worker as worker_module
from pagecheck.errors import EngineError, SourceError, UsageError
from tests.support.waiting import wait_for

SOON = 1 << 62


def test_coordinators_side_by_side_take_other_queues() -> None:
    wq = ["model:seed=1", "model:seed=2", "model:seed=3"]
    more = {"queue": 2}
    with Coordinator.with_settings(more, channels=2, engine="dsa", wq=wq) as made:
        assert [each.queue for each in made.statistics()] == [wq[2], wq[0]]


@pytest.fixture
def ram(tmp_path: Path) -> str:
    path = tmp_path / "ram"
    path.write_bytes(bytes(64 << 10))
    return str(path)


def words_of(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).split()[1:]


def test_a_worker_is_apart_from_the_host_program(tmp_path: Path) -> None:
    """Its folder, session and signals are its own, and it has no descriptor of the host's."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with Coordinator(1) as c:
        (pid,) = c.worker_pids
        fds = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert (fds.pop(0), fds.pop(1)) == ("/dev/null", "/dev/null")
        assert fds.pop(2).startswith("/memfd:pagecheck-worker-stderr")
        assert [link.partition(":")[0] for link in fds.values()] == ["socket"]
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) == pid
        assert int(words_of(pid, "SigBlk")[0], 16) == 0
        ignored = int(words_of(pid, "SigIgn")[0], 16)
        assert not any(ignored >> (each - 1) & 1 for each in (signal.SIGTERM, signal.SIGHUP))
        os.close(write)
        assert os.read(read, 1) == b""  # nobody else has it
    os.close(read)


@pytest.fixture
def stderr() -> int:
    fd = os.memfd_create("stderr")
    yield fd
    os.close(fd)


def run(code: str, stderr: int) -> Process:
    process = Process(["/bin/sh", "-c", code], 0, stderr)
    process.open_pidfd()
    return process


def test_how_it_ended(stderr: int) -> None:
    for code, status in (("exit 3", 3), ("kill -9 $$", -9), ("echo x >&2", 0)):
        ended = run(code, stderr)
        assert ended.wait_ended(SOON)
        assert (ended.returncode, ended.poll(), ended.wait_ended(0)) == (status, status, True)
        ended.send_signal(signal.SIGKILL)  # nobody's
        ended.close()
    assert os.pread(stderr, 9, 0) == b"x\n"


def test_one_that_runs_is_not_waited_for(stderr: int) -> None:
    running = run("read x < /dev/zero", stderr)
    assert running.poll() is None
    assert not running.wait_ended(0)
    running.send_signal(signal.SIGKILL)
    assert running.wait_ended(SOON)
    assert running.returncode == -9
    running.close()


def test_one_that_the_host_program_waited_for(stderr: int) -> None:
    taken = run("exit 3", stderr)
    os.waitpid(taken.pid, 0)
    assert taken.wait_ended(SOON)
    assert taken.returncode == 0
    taken.close()


def test_one_that_cannot_be_started(stderr: int) -> None:
    with pytest.raises(FileNotFoundError):
        Process(["/nonexistent"], 0, stderr)


def test_one_without_a_pidfd_is_ended(
    stderr: int, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(24, "no descriptor")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="no descriptor"):
        run("read x < /dev/zero", stderr)
    assert not os.path.exists(f"/proc/{started[0]}")


# The first worker of a scan starts ahead of its coordinator.


def test_a_scan_starts_as_many_as_it_has_channels(ram: str, started: list[int]) -> None:
    for channels in (1, 2):
        started.clear()
        assert scan(ram, channels=channels).total.zero == 16
        assert len(started) == channels
        assert not any(os.path.exists(f"/proc/{pid}") for pid in started)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kernel": "nonsense"}, UsageError),
        ({"channels": 0}, UsageError),
        ({"channels": 0, "wq": ["model:"]}, UsageError),
        ({"wq": "model:"}, UsageError),
        ({"engine": "gpu"}, UsageError),
        ({"wq": ["/dev/dsa/wq0.0"], "engine": "cpu"}, UsageError),
        ({"fallback": True}, UsageError),
        ({"nice": 99}, UsageError),
        ({"stall": 0}, UsageError),
        ({"batch_pages": 0}, UsageError),
        ({"page_size": 5}, UsageError),
        ({"deadline": -1}, UsageError),
        ({"pause": True}, UsageError),
        ({"length": 1 << 40}, UsageError),
        ({"out": "/proc/nonsense"}, Exception),
    ],
)
def test_a_mistake_starts_nothing(
    ram: str, options: dict[str, object], error: type[Exception], started: list[int]
) -> None:
    with pytest.raises(error):
        scan(ram, **options)
    with pytest.raises(SourceError):
        scan(f"{ram}.none", **{name: options[name] for name in options if name == "channels"})
    assert started == []


def test_engine_none_starts_nothing(ram: str, started: list[int]) -> None:
    assert scan(ram, engine="none").total.normal == 16
    assert started == []


def test_what_fails_after_its_start_ends_it(
    ram: str, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(oneshot, "_start", interrupted)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KeyboardInterrupt):
        scan(ram)
    assert len(started) == 1
    assert not os.path.exists(f"/proc/{started[0]}")
    assert os.listdir("/proc/self/fd") == before


def test_one_that_dies_before_its_coordinator_is_there(
    ram: str, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = oneshot._start

    def kill_first(*given: object) -> object:
        os.kill(started[0], signal.SIGKILL)
        wait_for(lambda: words_of(started[0], "State")[0] == "Z", "it is dead")
        return start(*given)

    monkeypatch.setattr(oneshot, "_start", kill_first)
    assert scan(ram).total.zero == 16
    assert len(started) == 2


def test_one_that_cannot_start(ram: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module.PROGRAM, "code", "raise SystemExit('no')")
    with pytest.raises(EngineError, match=r"channel 0 lost 5 workers while they started: .*: no$"):
        scan(ram)
    process.reap_left_behind()


@pytest.mark.parametrize("mode", [0o644, None])
def test_a_python_that_cannot_be_executed_is_named(
    ram: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    """As one in another user's home is for a service of its own uid."""
    python = tmp_path / "python"
    if mode is not None:
        python.touch(mode)
    monkeypatch.setattr(sys, "executable", str(python))
    named = rf"{python}, or a folder that leads to it, is not there or not executable for uid \d+"
    with pytest.raises(EngineError, match=f"cannot start a worker: {named}"):
        scan(ram, channels=1)
    with pytest.raises(EngineError, match=f"cannot start a process that scans it: {named}"):
        aside.scan("nfs", {"source": ram, "deadline": None}, None)


@pytest.mark.parametrize("closed", [(0,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_a_host_program_without_standard_descriptors(closed: tuple[int, ...]) -> None:
    """Its new descriptors get their numbers, the worker's socket among them."""
    program = (
        "import os\n"
        "from pagecheck import clock\n"
        "from pagecheck.coordinator.worker import WorkerProcess\n"
        "said = os.dup(1)\n"
        f"for fd in {closed}: os.close(fd)\n"
        "worker = WorkerProcess(0)\n"
        "worker.hang_up()  # it ends when it sees that, and not for an error\n"
        "assert worker.wait_gone(clock.now_ns() + 30 * 10**9)\n"
        "os.write(said, worker.describe_end().encode())\n"
        "worker.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert re.fullmatch(r"worker \d+ exited with status 0", done.stdout), done


@pytest.mark.parametrize("closed", [(0, 1), (1, 2), (0, 1, 2)])
def test_a_scan_aside_without_standard_descriptors(ram: str, closed: tuple[int, ...]) -> None:
    program = (
        "import os\n"
        "from pagecheck import aside\n"
        "said = os.dup(1)\n"
        f"for fd in {closed}: os.close(fd)\n"
        f"options = {{'source': {ram!r}, 'deadline': None, 'channels': 1}}\n"
        "os.write(said, str(aside.scan('nfs', options, None).total.zero).encode())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "16", done
