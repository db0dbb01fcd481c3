"""Where the states are noted, and what they have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from tests.support.rams import HUGE, PAGE
from tests.support.target import Area, Target

PAGES: Final = 1536  # 6 MiB: three pages of 2 MiB
PER_HUGE: Final = HUGE // PAGE

State = Callable[[Target, contextlib.ExitStack], Area]

STATES: Final[dict[str, State]] = {}


def state(make: State) -> State:
    STATES[make.__name__] = make
    return make


def anonymous(target: Target, pages: int = PAGES) -> Area:
    """Untouched anonymous memory."""
    return Area(target, target.map(pages), pages)
