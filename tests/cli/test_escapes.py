"""What others chose never reaches the terminal raw: names of processes, memfds and files, and what
a service says."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import pagecheck, start
from tests.support.rams import sparse_file

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m"

PROCESS = """
import ctypes, mmap, os, sys
ctypes.CDLL(None).prctl(15, b"\\x1b[2J\\x07vm", 0, 0, 0)
fds = []
if sys.argv[1] == "shared":
    fds = [os.memfd_create("\\x1b[2J" + str(n)) for n in range(2)]
    maps = [(os.ftruncate(fd, 16 << 20), mmap.mmap(fd, 16 << 20)) for fd in fds]
print("ready", flush=True)
sys.stdin.read()
"""


def assert_clean(text: str, *words: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    for word in words:
        assert word in text


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running.pid
        running.stdin.close()


@pytest.mark.parametrize("process", ["none"], indirect=True)
def test_the_name_of_a_process(process: int):
    done = pagecheck("scan", f"pid:{process}")
    assert done.returncode == 2
    assert_clean(done.stderr, r"\x1b[2J\x07vm")


@pytest.mark.parametrize("process", ["shared"], indirect=True)
@pytest.mark.parametrize("options", [(), ("--ranges",), ("-v",)], ids=["table", "ranges", "v"])
def test_the_names_of_memfds(process: int, options: tuple[str, ...]):
    done = pagecheck("scan", *options, f"pid:{process}")
    assert done.returncode == 0, done.stderr
    assert_clean(done.stdout)
    assert_clean(done.stderr)
    done = pagecheck("scan", f"pid:{process}:other")
    assert done.returncode == 2
    assert_clean(done.stderr, "[2J")


def test_the_name_of_a_file(folder: Path):
    name = ESCAPE.encode()
    sparse_file(os.fsencode(folder) + b"/" + name, 1, {})
    done = pagecheck("scan", name, cwd=folder)
    assert done.returncode == 0
    assert_clean(done.stdout, SHOWN)
    done = pagecheck("scan", b"lost" + name, cwd=folder)
    assert_clean(done.stderr, f"lost{SHOWN}")
    done = pagecheck("scan", "--out", name + b"/x", name, cwd=folder)
    assert_clean(done.stderr, SHOWN)


@pytest.mark.parametrize("command", ["scan", "status"])
def test_what_a_false_service_says(tmp_path: Path, ram: Path, command: str):
    path = tmp_path / "socket"
    error = {"error": {"class": "AccessError", "desc": ESCAPE}}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connected:
                connected.sendall(json.dumps(error).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        arguments = (
            ("scan", "--via", path, ram) if command == "scan" else ("status", "--socket", path)
        )
        done = pagecheck(*arguments)
        thread.join()
    assert done.returncode == 3
    assert_clean(done.stderr, SHOWN)


def test_what_a_service_logs(tmp_path: Path):
    """The path is the starter's own, and stands for all that a log line may hold."""
    folder = tmp_path / ESCAPE
    folder.mkdir()
    running = start("serve", "-v", "--channels", "1", "--socket", folder / "nowhere" / "s")
    out, err = running.communicate(timeout=20)
    assert running.returncode != 0
    assert out == ""
    assert_clean(err, SHOWN)
