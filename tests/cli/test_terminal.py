"""Terminals, pipes and closed streams."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import PAGECHECK, environment, pagecheck, start


def on_terminal(*arguments: object) -> tuple[bytes, bytes, int]:
    """Runs with stderr on a terminal; returns stdout, what the terminal got, the code."""
    ours, theirs = pty.openpty()
    try:
        scan = start(*arguments, stderr=theirs, text=False)
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
        out, _ = scan.communicate(timeout=10)
        return out, shown, scan.returncode
    finally:
        os.close(ours)


def test_bar_on_a_slow_scan(dense: Path):
    out, shown, code = on_terminal("scan", "--json", "--max-rate", "2M", dense)
    assert code == 0
    assert b"scanning" in shown
    assert out.startswith(b"{")
    assert out.count(b"\n") == 1
    assert b"\x1b" not in out


@pytest.mark.parametrize("options", [["--max-rate", "1G"], ["--max-rate", "2M", "--quiet"]])
def test_no_bar(dense: Path, options: list[str]):
    _out, shown, code = on_terminal("scan", *options, dense)
    assert code == 0
    assert shown == b""


def test_no_bar_when_piped(dense: Path):
    done = pagecheck("scan", "--max-rate", "3M", dense)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("options", ["", "--ranges", "--json"])
def test_reader_that_goes_away(folder: Path, options: str):
    """`| head -1`, and a reader that is gone before the first line."""
    path = folder / "stripes"
    with open(path, "wb") as file:
        file.truncate(40000 * 4096)
        for page in range(0, 40000, 2):
            os.pwrite(file.fileno(), b"x", page * 4096)
    for reader in ("head -1", "true"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {PAGECHECK} scan {options} {path} | {reader}"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.stderr == ""
        assert done.returncode in (0, 141)


CLOSED = {
    "<&-": 0,
    ">&-": 2,
    "--json >&-": 2,
    "--quiet >&-": 0,
    "--quiet --json >&-": 2,
    "2>&-": 0,
    "<&- >&- 2>&-": 2,
    "<&- 2>&-": 0,
    ">/dev/full": None,
    "--json >/dev/full": None,
    "--json 2>&-": 0,
    "--quiet >&- 2>&-": 0,
}


@pytest.mark.parametrize("streams", CLOSED)
def test_closed_streams(ram: Path, streams: str):
    """Never a traceback; where the result cannot be told, not a success in silence either."""
    script = f"{PAGECHECK} scan --channels 2 {ram} {streams}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=20, env=environment()
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert "bug" not in done.stderr + done.stdout
    assert done.stderr.count("\n") <= 1
    if CLOSED[streams] is not None:
        assert done.returncode == CLOSED[streams]
    if CLOSED[streams] == 2 and "2>&-" not in streams:
        assert "standard output is closed" in done.stderr
    if "/dev/full" in streams:
        assert done.returncode != 0
        assert "No space left" in done.stderr


def test_errors_do_not_land_on_stdout_when_stderr_is_closed():
    done = subprocess.run(
        ["bash", "-c", f"{PAGECHECK} scan /nowhere 2>&-"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 2
    assert done.stdout == ""


def test_ascii_locale(folder: Path):
    path = folder / "säge.ram"
    with open(path, "wb") as file:
        file.truncate(4096)
    for setting in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}):
        for options in ([], ["--ranges"], ["--json"], ["-v"]):
            done = pagecheck("scan", *options, path, env={**environment(), **setting}, text=False)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", ["/nowhere", "--no-such-option x"])
def test_exit_code_when_stderr_is_full(arguments: str):
    script = f"{PAGECHECK} scan {arguments} 2>/dev/full"
    assert subprocess.run(["bash", "-c", script], env=environment(), timeout=20).returncode == 2
