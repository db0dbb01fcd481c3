"""A signal at a moment where Python drops the exception: nothing is shown, nothing forgotten."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, weakref
from pagecheck.cli import signals
class Thing: pass
signals.install()
thing = Thing()
def callback(_):
    {what}
watched = weakref.ref(thing, callback)
del thing
print("went on")
signals.raise_pending()
print("nothing was pending")
"""


def run(what: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PROGRAM.format(what=what)]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=30)


def test_a_dropped_signal_is_silent_and_pending() -> None:
    done = run("os.kill(os.getpid(), signal.SIGTERM)")
    assert done.stdout == "went on\n"
    assert done.returncode != 0
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("Traceback") == 1  # that of raise_pending, which no one caught here


@pytest.mark.parametrize("what", ["raise ValueError('x')", "raise KeyboardInterrupt"])
def test_other_dropped_exceptions_are_still_shown(what: str) -> None:
    done = run(what)
    assert done.stdout == "went on\nnothing was pending\n"
    assert "Exception ignored" in done.stderr
