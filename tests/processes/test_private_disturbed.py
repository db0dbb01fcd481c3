"""Pages whose bytes stay the same, while the kernel does with them whatever it may do.

They are swapped out and in, made huge and split, merged and written apart, shared with children and
copied: an answer may be undecided, and never wrong.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

import pytest

from pagecheck import Coordinator
from tests.support import target as t
from tests.support.kernel_settings import set_to
from tests.support.looking import attached, of_report, opened
from tests.support.rams import PAGE
from tests.support.states import PAGES, anonymous
from tests.support.states.backed import reserve_huge
from tests.support.target import Target, assert_right, joined

SECONDS: Final = 1.5  # for each; --worlds N makes it N seconds
KSM: Final = Path("/sys/kernel/mm/ksm")


@pytest.mark.long(but="memory-4096")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page_size", [PAGE, 64 << 10])
@pytest.mark.parametrize("how", ["memory", "hugetlb"])
def test_stable_pages(how: str, page_size: int, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--worlds") or SECONDS
    with contextlib.ExitStack() as stack, Target() as target:
        area = anonymous(target)
        if how == "hugetlb":
            reserve_huge(stack, 9)  # for copies too
            flags = t.PRIVATE | t.ANONYMOUS | t.HUGETLB
            target.map(PAGES, flags=flags, at=area.base)
        elif KSM.exists():
            with contextlib.suppress(pytest.skip.Exception):
                stack.enter_context(t.swap_file())
                stack.enter_context(set_to(KSM / "sleep_millisecs", 1))
                stack.enter_context(set_to(KSM / "run", 1))
        area.zeros(0, PAGES)
        for page in range(0, PAGES, 5):
            area.byte(page, page % PAGE)
        target.do("disturb", area.base, PAGES * PAGE)
        may = joined(area.may, page_size // PAGE) | t.UNDECIDED
        decided, end = 0, time.monotonic() + seconds
        with Coordinator(2) as coordinator:
            while time.monotonic() < end:
                with attached(coordinator, opened(area), page_size) as block:
                    for _ in range(10):
                        found = of_report(coordinator.scan(block))
                        assert_right(found, may)
                        decided += int((found != t.UNDECIDED).sum())
        assert target.do("calm") > 0
        assert decided
