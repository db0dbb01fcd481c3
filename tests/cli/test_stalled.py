"""A file system that stops answering: the command ends soon all the same, and says so."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pagecheck as package
from pagecheck.errors import SourceError, StorageStalled
from pagecheck.service.client import Client
from pagecheck.shm.owner import sweep
from tests.support.command import assert_fails, pagecheck, scan_json, start, tagged_processes
from tests.support.processes import children_of
from tests.support.rams import PAGE, sparse_file
from tests.support.stalling_fs import FILE_BYTES, StallingFs, stalling_fs
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

DEADLINE = "0.5"
SOON_S = 10.0  # a stalled call would last until the end of the test


@pytest.fixture
def fs() -> Iterator[StallingFs]:
    """Answers everything but reads, at first; who waits for it ends with it."""
    with stalling_fs(frozenset({"READ"})) as running:
        yield running
    wait_for(lambda: not tagged_processes(), "the end of what was left")
    sweep(0)  # as a later start does, of those who were killed


def assert_undecided(report: dict) -> None:
    assert report["total"]["undecided"] == report["total"]["pages"] == FILE_BYTES // PAGE
    assert report["answer"] == "live"
    assert report["notes"]


def test_reads(fs: StallingFs) -> None:
    raw = ("--format", "raw", "--deadline", "2")
    assert_undecided(scan_json(*raw, fs.path, code=1, timeout=SOON_S))
    done = pagecheck("scan", "--deadline", DEADLINE, fs.path, timeout=SOON_S)
    assert_fails(done, 1, "undecided")  # what its format is could not be told


@pytest.mark.parametrize("operation", ["LOOKUP", "GETATTR", "OPEN"])
def test_before_the_size_is_known(fs: StallingFs, operation: str) -> None:
    fs.stall(operation)
    done = pagecheck("scan", "--format", "raw", "--deadline", DEADLINE, fs.path, timeout=SOON_S)
    text = assert_fails(done, 1, fs.path, "undecided", "did not answer", "0.5 s")
    assert done.stdout == ""
    done = pagecheck("scan", "--json", "--deadline", DEADLINE, fs.path, timeout=SOON_S)
    assert "StorageStalled" in done.stdout
    assert text.strip().removeprefix("pagecheck: ") in done.stdout


def test_closing(fs: StallingFs) -> None:
    """Even the end of a process that has the file open is a request."""
    fs.stall("FLUSH", "RELEASE")
    done = pagecheck("scan", "--format", "raw", "--deadline", "2", fs.path, timeout=SOON_S)
    assert done.returncode == 1
    assert "undecided" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(fs: StallingFs, number: int) -> None:
    fs.stall("OPEN")
    running = start("scan", fs.path)
    try:
        fs.await_word("OPEN")
        running.send_signal(number)
        _out, err = running.communicate(timeout=SOON_S)
        assert running.returncode == 128 + number
        assert err.count("\n") == 1
    finally:
        running.kill()


@pytest.mark.parametrize("name", ["fd:0", "/dev/stdin"])
def test_standard_input(fs: StallingFs, name: str) -> None:
    fd = fs.open()
    try:
        options = ["--format", "raw", "--deadline", "2", name]
        assert_undecided(scan_json(*options, code=1, timeout=SOON_S, stdin=fd))
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["fd:{}", "/proc/self/fd/{}", "/dev/fd/{}"])
def test_a_descriptor(fs: StallingFs, name: str) -> None:
    fd = fs.open()
    try:
        options = ["--format", "raw", "--deadline", "2", name.format(fd)]
        assert_undecided(scan_json(*options, code=1, timeout=SOON_S, pass_fds=[fd]))
    finally:
        os.close(fd)


def test_what_a_process_maps(fs: StallingFs) -> None:
    program = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)\n"
        "os.close(fd); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, fs.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as vmm:
        assert vmm.stdout is not None
        assert vmm.stdout.readline() == b"ready\n"
        fs.stall("GETATTR", "OPEN", "LOOKUP")
        source = f"pid:{vmm.pid}:{os.path.basename(fs.path)}"
        done = pagecheck("scan", "--deadline", DEADLINE, source, timeout=SOON_S)
        assert_fails(done, 1, source, "did not answer")
        fs.end()


def test_an_output_folder(fs: StallingFs, tmp_path: Path) -> None:
    ram = sparse_file(tmp_path / "ram", 16, {1: b"x"})
    fs.stall("LOOKUP")
    out = os.path.join(os.path.dirname(fs.path), "out")
    done = pagecheck("scan", "--deadline", "2", "--out", out, ram, timeout=SOON_S)
    assert done.returncode == 1
    assert "16" in done.stdout
    assert "did not answer" in done.stdout


def test_the_function(fs: StallingFs) -> None:
    fs.stall("OPEN")
    before = time.monotonic()
    with pytest.raises(StorageStalled, match="did not answer"):
        package.scan(fs.path, deadline=0.5)
    assert time.monotonic() - before < SOON_S


def test_the_next_scan_reaps_what_was_left(fs: StallingFs, tmp_path: Path) -> None:
    fs.stall("OPEN")
    before = set(children_of(os.getpid()))
    with pytest.raises(StorageStalled, match="did not answer"):
        package.scan(fs.path, deadline=0.5)
    new = [each for each in psutil.Process().children() if each.pid not in before]
    (left,) = [each for each in new if "aside" in " ".join(each.cmdline())]
    fs.end()
    wait_for(lambda: left.status() == psutil.STATUS_ZOMBIE, "its end")
    package.scan(sparse_file(tmp_path / "ram", 4, {}), channels=1)
    assert not left.is_running()


def test_whoever_asked_is_killed(fs: StallingFs) -> None:
    """What waits for the file system is left, and ends with it."""
    fs.stall("OPEN")
    running = start("scan", fs.path)
    fs.await_word("OPEN")
    others = wait_for(lambda: children_of(running.pid), "another process")
    running.kill()
    running.communicate(timeout=SOON_S)
    fs.end()
    wait_for(lambda: not any(map(psutil.pid_exists, others)), "its end")


def test_one_that_answers_is_scanned(tmp_path: Path) -> None:
    """By a process of its own, with the same answer, errors and files."""
    from tests.cli.test_rest import in_front_of

    behind = tmp_path / "behind"
    behind.mkdir()
    sparse_file(behind / "vm", 64, {2: b"x", 40: b"y"})
    (behind / "empty").touch()
    with in_front_of(behind, tmp_path / "front"):
        front = tmp_path / "front"
        done = pagecheck("scan", "--ranges", front / "vm")
        assert done.stdout.splitlines() == [
            "0 2 zero",
            "2 1 normal",
            "3 37 zero",
            "40 1 normal",
            "41 23 zero",
        ]
        report = scan_json("--out", front / "out", front / "vm")
        for file in report["blocks"][0]["files"].values():
            assert os.stat(file).st_size == 8
        assert_fails(pagecheck("scan", front / "empty"), 2, "empty")
        assert_fails(pagecheck("scan", front / "missing"), 2, "missing")
        assert_fails(pagecheck("scan", "--page-size", "5", front / "vm"), 2, "page size")
        told = []
        found = package.scan(front / "vm", progress=lambda done, total: told.append((done, total)))
        assert found.total.zero == 62
        assert all(total == 64 * PAGE for _done, total in told)


def test_by_the_service(fs: StallingFs) -> None:
    """It would not open such a file, so nobody looks at it."""
    fs.stall("LOOKUP", "GETATTR", "OPEN")
    with pytest.raises(SourceError, match="opens no file on such a file system"):
        Client.attach(_Connected(), fs.path)


class _Connected(Client):
    """A client that needs no service for what is refused on this side."""

    def __init__(self) -> None:
        pass

    def _require_trusted(self) -> None:
        pass
