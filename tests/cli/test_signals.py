"""SIGINT and SIGTERM: the exit code within a second, one line, nothing left."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import pagecheck as package
from tests.support.command import environment, pagecheck, start
from tests.support.processes import catches, children_of, is_scanning
from tests.support.waiting import wait_for


def running(dense: Path, *options: str):
    """A slow scan whose two workers exist."""
    scan = start("scan", "--max-rate", "64K", "--channels", "2", *options, dense)
    wait_for(lambda: is_scanning(scan.pid), "the scan has begun")
    assert len(children_of(scan.pid)) == 2
    return scan


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]], ids=["", "json", "quiet"])
def test_signal_ends_everything(dense: Path, number: int, code: int, options: list[str]):
    scan = running(dense, *options)
    workers = children_of(scan.pid)
    sent = time.monotonic()
    scan.send_signal(number)
    out, err = scan.communicate(timeout=10)
    assert time.monotonic() - sent < 1.0
    assert scan.returncode == code
    assert err.count("\n") == 1
    assert err.startswith("pagecheck: ")
    assert out == "" or options == ["--json"]
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "no worker", 1)


def test_signal_with_stopped_workers(dense: Path):
    scan = running(dense)
    for pid in children_of(scan.pid):
        os.kill(pid, signal.SIGSTOP)
    sent = time.monotonic()
    scan.send_signal(signal.SIGTERM)
    scan.communicate(timeout=10)
    assert time.monotonic() - sent < 1.5
    assert scan.returncode == 143


def test_two_signals(dense: Path):
    """The second one does not cut the clean-up short."""
    scan = running(dense)
    for pid in children_of(scan.pid):
        os.kill(pid, signal.SIGSTOP)  # so that the clean-up takes its time
    scan.send_signal(signal.SIGINT)
    scan.send_signal(signal.SIGTERM)
    scan.send_signal(signal.SIGINT)
    scan.communicate(timeout=10)
    assert scan.returncode in (130, 143)


def test_signals_at_any_moment_leave_nothing(dense: Path):
    """Also in the middle of the start-up, once our handlers are there."""
    rng = random.Random(7)
    for _ in range(12):
        scan = start("scan", "--max-rate", "64K", "--channels", "2", dense)
        wait_for(lambda pid=scan.pid: catches(pid, signal.SIGTERM), "the handlers are there")
        time.sleep(rng.uniform(0, 0.08))  # the moment is what varies
        scan.send_signal(signal.SIGTERM)
        _out, err = scan.communicate(timeout=5)
        assert scan.returncode == 143, err
        assert err.count("\n") == 1


def test_the_terminals_interrupt_reaches_only_the_command(dense: Path):
    """Workers are in sessions of their own: a Ctrl-C is the coordinator's to handle."""
    scan = running(dense)
    for pid in children_of(scan.pid):
        assert os.getsid(pid) == pid
    scan.send_signal(signal.SIGINT)
    scan.communicate(timeout=5)


def test_killed_command_takes_its_workers_with_it(dense: Path):
    scan = running(dense)
    workers = children_of(scan.pid)
    maps = Path(f"/proc/{scan.pid}/maps").read_text()
    prefix = re.search(r"/dev/shm/(pagecheck-\d+-\w+)-b\d+s\d+-bitmaps", maps).group(1)
    scan.kill()
    scan.communicate()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "workers end", 5)
    left = [name for name in os.listdir("/dev/shm") if prefix in name]
    assert left
    for name in left:  # only its own: others may be starting at this moment
        os.utime(f"/dev/shm/{name}", (time.time() - 60, time.time() - 60))
    assert pagecheck("scan", "--quiet", dense).returncode == 0
    assert not [name for name in os.listdir("/dev/shm") if prefix in name]


def test_nohup_stays_nohup(dense: Path):
    scan = start(
        "scan",
        "--quiet",
        "--max-rate",
        "4M",
        dense,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for(lambda: is_scanning(scan.pid), "the scan has begun")
    scan.send_signal(signal.SIGHUP)
    scan.communicate(timeout=20)
    assert scan.returncode == 0


def test_signal_while_a_worker_does_not_start(dense: Path):
    scan = start("scan", "--channels", "2", dense)
    stopped = []

    def stop_all() -> bool:
        for pid in children_of(scan.pid):
            # Not before its exec: until then the command itself waits for it (vfork).
            started = "workers.program" in " ".join(psutil.Process(pid).cmdline())
            if started and pid not in stopped:
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        return len(stopped) == 2

    wait_for(stop_all, "two workers stopped")
    sent = time.monotonic()
    scan.send_signal(signal.SIGTERM)
    scan.communicate(timeout=10)
    assert time.monotonic() - sent < 1.5
    assert scan.returncode == 143


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = {arguments!r}
from pagecheck.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["pagecheck.cli.signals", "pagecheck.printable", "contextlib"])
def test_interrupt_before_the_handlers_are_there(module: str):
    """As any program that has none: ended by the signal, without a word."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _with_path(module)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=20,
    )
    assert (done.returncode, done.stderr, done.stdout) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("pagecheck.cli.main", "--help"),
        ("pagecheck.cli.plain", "--version"),
        ("pagecheck.oneshot", "scan"),
        ("pagecheck.coordinator.worker", "scan"),  # just before the first worker starts
        ("pagecheck.coordinator.coordinator", "scan"),  # while it does
        ("pagecheck.coordinator.runner", "scan"),  # once all of them do
    ],
)
def test_interrupt_while_the_command_is_imported(module: str, command: str, dense: Path):
    arguments = [command, str(dense)] if command == "scan" else [command]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT.format(module=module, arguments=arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=20,
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, "pagecheck: interrupted\n", "")


def _with_path(module: str) -> str:
    home = str(Path(package.__file__).parents[1])
    forget = f"sys.modules.pop({module!r}, None)"  # the hook's own `import signal` loaded it
    text = INTERRUPTED_IMPORT.format(module=module, arguments=["--version"])
    return text.replace("sys.argv[1:]", f"sys.path.append({home!r}); {forget}; sys.argv[1:]")
