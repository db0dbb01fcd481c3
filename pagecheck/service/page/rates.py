"""Throughput and latency of the last seconds, from what workers count anyway."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.native import _native
from pagecheck.shm.layout import statistic, statistic_array

WINDOW_S: Final = 10.0
STEP_S: Final = 0.9  # between two looks that are kept

Words = dict[str, list[int]]


class Rates:
    """Keeps the counters of the last seconds; one thread uses it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Words]] = deque()

    def since(self, words: Words) -> tuple[float, Words]:
        """What was counted in the last seconds.

        Args:
            words: of `shm.layout.STATS`, by engine, as they are now.

        Returns:
            How many seconds that were, 0 where there was no look to compare with, and the words.
        """
        now = clock.now_s()
        while self._looks and now - self._looks[0][0] > WINDOW_S:
            self._looks.popleft()
        then, before = self._looks[0] if self._looks else (now, {})
        if not self._looks or now - self._looks[-1][0] >= STEP_S:
            self._looks.append((now, words))
        if now <= then:
            return 0.0, {}
        none = [0] * len(next(iter(words.values()), []))
        return now - then, {
            engine: [max(0, b - a) for a, b in zip(before.get(engine, none), each, strict=True)]
            for engine, each in words.items()
        }


class Throughput(NamedTuple):
    """What an engine did; edges are upper edges of buckets in seconds, None where there is none.

    Attributes:
        batches, pages, checked: how many, and the bytes of pages that workers decided.
        p50, p99: of the time from the beginning of a batch to its answer.
    """

    batches: int
    pages: int
    checked: int
    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, words: list[int]) -> Throughput:
        """From the words of `shm.layout.STATS`."""
        latencies = statistic_array(words, "latencies")
        return cls(
            statistic(words, "answered"),
            sum(statistic(words, each) for each in ("zero", "normal", "undecided")),
            statistic(words, "bytes"),
            percentile(latencies, 0.5),
            percentile(latencies, 0.99),
        )


def percentile(counts: list[int], share: float) -> float | None:
    """The upper edge, in seconds, of the bucket that holds it; infinity for the last one.

    Args:
        counts: of the histogram `latencies`, whose every edge is twice the one before.
    """
    total = sum(counts)
    if not total:
        return None
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= share * total and index < len(counts) - 1:
            return _native.LATENCY_FIRST_NS * (1 << index) / 1e9
    return float("inf")
