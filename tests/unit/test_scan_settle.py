"""After a scan that ended early the sink of a block is stopped, whoever is in a feed still."""

from types import SimpleNamespace
from typing import Any

import pytest

from pagecheck.coordinator.scan import settle_sink


class Channel:
    """Has so many batches in progress; None: another thread is in its feed."""

    def __init__(self, *answers: int | None) -> None:
        self._answers = list(answers)

    @property
    def may_write(self) -> bool:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            raise RuntimeError("feed is in use by another thread")
        return answer > 0


@pytest.mark.parametrize(
    ("answers", "early", "calls"),
    [
        ((0,), True, ["released"]),
        ((3, 0), True, ["stopped", "visited", "released"]),
        ((None, 0), True, ["stopped", "visited", "released"]),
        ((3,), True, ["stopped", "visited"]),
        ((None,), True, ["stopped", "visited"]),
        ((None,), False, ["released"]),  # what is in progress is somebody else's
    ],
)
def test_what_may_write_is_stopped(
    answers: tuple[int | None, ...], early: bool, calls: list[str]
) -> None:
    """Another scan may begin only when nobody has a batch of this one."""
    seen: list[str] = []
    sink: Any = SimpleNamespace(
        stop=lambda: seen.append("stopped"), release=lambda: seen.append("released")
    )
    pool: Any = SimpleNamespace(
        channels=[Channel(0), Channel(*answers)],
        visit_idle=lambda *_: seen.append("visited"),
    )
    settle_sink(pool, sink, early=early)
    assert seen == calls
