"""Running the installed command and judging what it says."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGECHECK = str(Path(sys.executable).with_name("pagecheck"))
Done = subprocess.CompletedProcess[str]
TAG = f"PAGECHECK_TEST_RUN={os.getpid()}"


def environment() -> dict[str, str]:
    """Marked, so that a process that was left behind can be told from other people's."""
    name, value = TAG.split("=")
    return {**os.environ, name: value}


def pagecheck(*arguments: Any, **options: Any) -> subprocess.CompletedProcess:
    """`pagecheck arguments...`, run to its end."""
    options = {"capture_output": True, "timeout": 60, "env": environment(), **options}
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


def limited(which: int, value: int) -> Callable[[], None]:
    """A `preexec_fn` that sets a limit (resource.RLIMIT_*) of the command."""
    return lambda: resource.setrlimit(which, (value, value))


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
