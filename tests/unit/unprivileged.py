"""What tests of other users' rights share: a child that is nobody, with nobody's rights."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from typing import Final

NOBODY: Final = 65534


def in_a_child(work: Callable[[], None]) -> None:
    """Runs it in a forked child without root's rights, and fails if it does."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            as_nobody()
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def as_nobody() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, lost with root
