"""What all clients of one service share: the coordinator, the limits, the counters, the registry of
clients; and the thread that supervises the direct channels."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pagecheck.report.statistics import Statistics
from pagecheck.service.answers import Answers
from pagecheck.service.counters import Counters
from pagecheck.service.direct import LOOK_NS, DirectChannel
from pagecheck.service.places import SavePlaces
from pagecheck.service.policy import NO_POLICY, Policy
from pagecheck.service.registry import Registry
from pagecheck.shm.layout import statistic, statistic_array
from pagecheck.shortage import no_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pagecheck.coordinator import Block, Coordinator
    from pagecheck.coordinator.settings import Settings
    from pagecheck.report.report import BlockReport
    from pagecheck.service.limits import Limits
    from pagecheck.service.page.recent import Recent

CLOSE_S: Final = 1.0


class Service:
    """Shared by all clients; `server.py` makes it and ends it.

    Attributes:
        clients: those that are connected.
        saves: for those that run.
        recent: the last scans, where a page shows them.
        ending: set when clients are to be disconnected.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        settings: Settings,
        limits: Limits,
        policy: Policy = NO_POLICY,
    ) -> None:
        """Starts to supervise channels.

        Args:
            settings: the settings of the workers of direct channels.
            policy: what clients may do beyond their own rights.
        """
        self.coordinator = coordinator
        self.limits = limits
        self.policy = policy
        self.counters = Counters(coordinator)
        self.clients = Registry(limits.clients)
        self.answers = Answers(limits.memory_bytes, limits.memory_all_bytes)
        self.saves = SavePlaces()
        self.recent: Recent | None = None
        self.ending = threading.Event()
        self.started = time.time()
        self._settings = settings
        self._lock = threading.Lock()
        self._workers = itertools.count(coordinator.channels)
        self._starts_replaced = 0
        self._supervisor = threading.Thread(
            target=self._supervise, name="pagecheck-supervisor", daemon=True
        )
        try:
            self._supervisor.start()
        except RuntimeError as error:
            self.answers.close()
            raise no_thread("direct channels", error) from error

    @property
    def workers_replaced(self) -> int:
        """Workers that died or hung and were replaced: those for checks by command, and those that
        died while their direct channel was opened."""
        return self.coordinator.workers_replaced + self._starts_replaced

    def new_channel(
        self, number: int, slots: int, slot_pages: int, spin_us: int, blocks: Mapping[int, Block]
    ) -> DirectChannel:
        """Starts a direct channel and its worker.

        Args:
            blocks: those of its client, by their numbers.

        Raises:
            EngineError, ResourceError: as the constructor of `DirectChannel`.
        """
        worker = next(self._workers)
        shape = (slots, slot_pages, spin_us)
        channel = DirectChannel(number, worker, self._settings, *shape, blocks)
        with self._lock:
            self._starts_replaced += channel.replaced
        channel.on_lost = lambda: self.counters.add("channels_lost")
        return channel

    def _supervise(self) -> None:
        while not self.ending.wait(LOOK_NS / 1e9):
            for client in self.clients.all():
                for channel in list(client.resources.channels.values()):
                    with contextlib.suppress(OSError, ValueError):  # it is being closed
                        channel.supervise()
        self.answers.close()

    def close(self) -> None:
        """Ends the supervision of channels; clients are to be disconnected. May be called twice."""
        self.ending.set()
        self._supervisor.join(CLOSE_S)

    def scanned(
        self,
        client: object,
        source: str,
        answer: str,
        blocks: Sequence[BlockReport],
        checked: int,
        seconds: float,
    ) -> None:
        """Keeps a scan of whole blocks for the page, if there is one.

        Args:
            client: as of `ClientResources.client`.
            source: what was scanned, as the client named it.
            answer: as of a report; `saved`: for a save.
            blocks: what was found; only looked at here.
            checked: bytes that were read.
        """
        if self.recent is not None:
            clients = self.clients.all()
            number = next((each.number for each in clients if each.resources.client is client), 0)
            self.recent.add(number, source, answer, blocks, checked, seconds)

    def describe(self, *, everyone: bool) -> dict[str, Any]:
        """What `query-stats` answers.

        Args:
            everyone: include each client; else only how many there are.
        """
        words = self.counters.words()
        clients = self.clients.all()
        return {
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - self.started, 3),
            "engine": self.coordinator.engine,
            "kernel": self.coordinator.kernel,
            "workers": self.coordinator.channels,
            "workers_replaced": self.workers_replaced,
            "clients": len(clients),
            "blocks": sum(len(client.resources.blocks) for client in clients),
            "channels": sum(len(client.resources.channels) for client in clients),
            "answer_bytes": self.answers.bytes_kept(),
            "numbers": {name: round(n, 6) for name, n in self.counters.numbers().items()},
            "engines": {engine: _readable(each) for engine, each in words.items()},
            "sessions": [client.describe() for client in clients] if everyone else [],
        }


def _readable(words: list[int]) -> dict[str, Any]:
    names = ("zero", "normal", "undecided", "holes", "bytes")
    return {
        "pages": {name: statistic(words, name) for name in names},
        "latencies": statistic_array(words, "latencies"),
        **Statistics.of(words)._asdict(),
    }
