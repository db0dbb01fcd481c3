"""After an interrupt the sink of a block is stopped, whoever is in a feed still."""

from types import SimpleNamespace
from typing import Any

import pytest

from pagecheck.coordinator.scan import settle_sink


class Feed:
    def __init__(self, answer: int | None) -> None:
        self._answer = answer

    def occupied(self) -> int:
        if self._answer is None:
            raise RuntimeError("feed is in use by another thread")
        return self._answer


@pytest.mark.parametrize(("answer", "stops"), [(0, False), (3, True), (None, True)])
def test_what_may_write_is_stopped(answer: int | None, stops: bool) -> None:
    seen: list[str] = []
    sink = SimpleNamespace(stop=lambda: seen.append("stopped"))
    pool: Any = SimpleNamespace(
        channels=[SimpleNamespace(feed=Feed(0)), SimpleNamespace(feed=Feed(answer))],
        visit_idle=lambda *_: seen.append("visited"),
    )
    block: Any = SimpleNamespace(sink=sink)
    settle_sink(pool, block)
    assert seen == (["stopped", "visited"] if stops else [])
