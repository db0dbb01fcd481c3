"""The clients that are connected, as the service sees them."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Protocol

from pagecheck.errors import LimitError
from pagecheck.service.limits import RESERVED_CLIENTS

if TYPE_CHECKING:
    from pagecheck.service.resources import ClientResources


class Client(Protocol):
    """A connected client; `session.py` has the only one there is.

    Attributes:
        number: what it is called; set by the registry.
        resources: what it has attached and opened.
    """

    number: int
    resources: ClientResources

    @property
    def is_working(self) -> bool:
        """Whether a command runs at this moment."""

    def describe(self) -> dict[str, Any]:
        """The client as `query-stats` shows it."""

    def hang_up(self) -> None:
        """Ends its waits for the client."""

    def join(self, seconds: float) -> bool:
        """Waits for its end. False: it still runs."""


class Registry:
    """Any thread may use it."""

    def __init__(self, clients: int) -> None:
        """Nobody is connected yet.

        Args:
            clients: as many may be connected at a time.
        """
        self._most = clients
        self._lock = threading.Lock()
        self._clients: dict[int, Client] = {}
        self._numbers = itertools.count(1)

    def enter(self, client: Client, *, trusted: bool) -> None:
        """Lets a client in, and gives it its number.

        Args:
            trusted: root or our own user, for whom some places are kept.

        Raises:
            LimitError: there are as many as may be.
        """
        most = self._most if trusted else max(1, self._most - RESERVED_CLIENTS)
        with self._lock:
            if len(self._clients) >= most:
                raise LimitError(f"{most} clients are connected; try again later")
            client.number = next(self._numbers)
            self._clients[client.number] = client

    def leave(self, number: int) -> None:
        """Forgets a client that is gone."""
        with self._lock:
            self._clients.pop(number, None)

    def all(self) -> list[Client]:
        """The clients there are at this moment."""
        with self._lock:
            return list(self._clients.values())
