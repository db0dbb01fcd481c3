"""What the service counts over its whole life, also of channels and clients that are gone."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from pagecheck.shm.layout import QUEUE_STATE, STATS_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagecheck.coordinator import Coordinator
    from pagecheck.model import Pause
    from pagecheck.service.direct import DirectChannel


class Counters:
    """Numbers that only rise; any thread may add to them.

    Attributes:
        coordinator: whose workers' words count, too.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._past: dict[str, list[int]] = {}  # words of closed direct channels, by engine
        self._open: set[DirectChannel] = set()

    def add(self, name: str, amount: float = 1) -> None:
        """Adds to one of the plain numbers; `service/schema.json` lists them under query-stats."""
        with self._lock:
            self._numbers[name] += amount  # type: ignore[assignment]

    def paused(self, pause: Pause) -> None:
        """Counts a pause of a VM's that is over."""
        self.add("pauses", pause.stopped_by_us)
        self.add("pause_seconds", pause.seconds)

    def number(self, name: str) -> float:
        """One of the plain numbers."""
        with self._lock:
            return self._numbers[name]

    def opened(self, channel: DirectChannel) -> None:
        """Its words count from now on."""
        with self._lock:
            self._open.add(channel)
            self._numbers["channels_opened"] += 1

    def closed(self, channel: DirectChannel) -> None:
        """Its words stay counted; called before it is closed."""
        with self._lock:
            if channel not in self._open:
                return
            self._open.discard(channel)
            past = self._past.get(channel.engine, [0] * STATS_WORDS)
            self._past[channel.engine] = _sum([past, channel.statistics()])

    def words(self) -> dict[str, list[int]]:
        """The words of `shm.layout.STATS` of all workers so far, by engine."""
        found: dict[str, list[list[int]]] = {}
        for report in self.coordinator.statistics():
            found.setdefault(report.engine, []).append(list(report.words))
        with self._lock:
            for engine, words in self._past.items():
                found.setdefault(engine, []).append(words)
            for channel in self._open:
                found.setdefault(channel.engine, []).append(channel.statistics())
        return {engine: _sum(each) for engine, each in found.items()}

    def numbers(self) -> dict[str, Any]:
        """All plain numbers so far."""
        with self._lock:
            return dict(self._numbers)


def _sum(lists: Iterable[list[int]]) -> list[int]:
    summed = [sum(column) for column in zip(*lists, strict=True)]
    summed[QUEUE_STATE] = 0  # not a count
    return summed
