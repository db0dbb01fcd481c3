"""What the tests of private memory take for the truth, against the process's own memory."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from tests.support.rams import PAGE
from tests.support.states import STATES, State
from tests.support.target import NORMAL, UNDECIDED, ZERO, Area, Target


def content_of(area: Area, page: int) -> int:
    """ZERO or NORMAL as the page is read, which changes what is mapped; UNDECIDED if it cannot."""
    with open(f"/proc/{area.target.pid}/mem", "rb", buffering=0) as memory:
        try:
            content = os.pread(memory.fileno(), PAGE, area.at(page))
        except OSError:
            return UNDECIDED
    return NORMAL if np.frombuffer(content, np.uint8).any() else ZERO


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_the_truth(make: State) -> None:
    with contextlib.ExitStack() as stack, Target() as target:
        area = make(target, stack)
        decided = np.flatnonzero(area.may & (ZERO | NORMAL))
        for page in decided.tolist():
            found = content_of(area, page)
            assert found & (area.may[page] & (ZERO | NORMAL)), f"page {page}"
