"""How many saves may run at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from pagecheck.errors import LimitError

SAVES_MAX: Final = 4  # at a time, of all clients; each has workers of its own


class SavePlaces:
    """As many saves as may run at a time."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(SAVES_MAX)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """A place for one.

        Raises:
            LimitError: none is free.
        """
        if not self._free.acquire(blocking=False):
            raise LimitError(f"{SAVES_MAX} saves run at a time; try again later")
        try:
            yield
        finally:
            self._free.release()
