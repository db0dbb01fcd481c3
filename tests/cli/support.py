"""Running the installed command and judging what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PAGECHECK = str(Path(sys.executable).with_name("pagecheck"))
TAG = f"PAGECHECK_TEST_RUN={os.getpid()}"
PAGE = 4096


def environment() -> dict[str, str]:
    """Marked, so that a process that was left behind can be told from other people's."""
    name, value = TAG.split("=")
    return {**os.environ, name: value}


def pagecheck(*arguments: Any, **options: Any) -> subprocess.CompletedProcess:
    """`pagecheck arguments...`, run to its end."""
    options = {"capture_output": True, "timeout": 30, "env": environment(), **options}
    text = options.pop("text", True)
    return subprocess.run(
        [PAGECHECK, *map(os.fsencode, map(_plain, arguments))], text=text, **options
    )


def _plain(argument: Any) -> str | bytes:
    return argument if isinstance(argument, str | bytes) else str(argument)


def start(*arguments: Any, **options: Any) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"env": environment(), **pipes, **options}
    return subprocess.Popen([PAGECHECK, *map(str, arguments)], **options)


def scan_json(*arguments: Any, code: int = 0, **options: Any) -> dict[str, Any]:
    """The report of `pagecheck scan --json`, and nothing else on stdout."""
    done = pagecheck("scan", "--json", *arguments, **options)
    assert done.returncode == code, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def assert_fails(done: subprocess.CompletedProcess, code: int, *words: str) -> str:
    """One line on stderr, no traceback, the right exit code."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("pagecheck: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    for word in words:
        assert word in done.stderr
    return done.stderr


def bits(path: str | os.PathLike[str], pages: int) -> np.ndarray:
    """A bitmap file as bool[pages]; its length and its padding are checked."""
    data = Path(path).read_bytes()
    assert len(data) == (pages + 63) // 64 * 8
    every = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(bool)
    assert not every[pages:].any()
    return every[:pages]


def sparse_file(path: str | os.PathLike[str], pages: int, data: dict[int, bytes]) -> Path:
    """A file of holes but for the pages of `data`, each given by its bytes."""
    with open(path, "wb") as file:
        file.truncate(pages * PAGE)
        for page, content in data.items():
            file.seek(page * PAGE)
            file.write(content.ljust(PAGE, b"\0"))
    return Path(os.fsdecode(path))


def children_of(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def is_scanning(pid: int) -> bool:
    """Whether workers are up and the scan itself has begun: its bitmaps are mapped."""
    try:
        return "-bitmaps" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_answers(pid: int) -> bool:
    """Whether the scan has decided a page: a bit of its bitmaps is set."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        paths = {line.split()[5] for line in lines if "-bitmaps" in line}
        return any(any(Path(path).read_bytes()) for path in paths)
    except (FileNotFoundError, ProcessLookupError):
        return False


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def tagged_processes() -> list[int]:
    """Processes that were started by these tests and still run."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if TAG.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except OSError:
                continue
    return found
