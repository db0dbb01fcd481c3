"""A process of ours that does not end when it is closed is reaped when the next one starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pagecheck.child import process
from pagecheck.child.process import Child, Program, reap_left_behind
from tests.support.processes import kill, state_of

pytestmark = pytest.mark.usefixtures("clean")

DEAF = Program("from signal import pause; main = lambda fd: pause()")


@pytest.fixture
def left() -> Iterator[int]:
    """The id of a process that was left behind and has ended since."""
    child = Child("deaf process", DEAF)
    child.close()
    kill(child.pid)
    yield child.pid
    reap_left_behind()


def test_it_is_reaped_once_it_has_ended(left: int) -> None:
    assert state_of(left) == "Z"
    reap_left_behind()
    assert state_of(left) == ""


def test_a_forked_host_process_can_start_others_and_reaps_none_of_ours(left: int) -> None:
    """Also where a thread of ours was just reaping: that thread does not exist in the fork."""
    with process._left_behind_lock:
        forked = os.fork()
        if forked == 0:
            signal.alarm(20)
            try:
                reap_left_behind()
                child = Child("deaf process", DEAF)
                child.kill()
                child.close()
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitpid(forked, 0)[1] == 0
    assert state_of(left) == "Z"
