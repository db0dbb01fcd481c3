"""How long a worker has stood still."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pagecheck.native import Feed

SLICE_NS: Final = 50_000_000  # between two looks at a worker while a batch is out


class Watch:
    """How long a worker's progress word has stood still, counting only time that we watched: a
    stopped and continued coordinator must not take its own pause for the worker's."""

    def __init__(self, feed: Feed) -> None:
        self._progress = feed.progress()
        self._looked_ns = time.monotonic_ns()
        self._still_ns = 0

    def still_ns(self, feed: Feed) -> int:
        """Nanoseconds without progress, up to this look."""
        now = time.monotonic_ns()
        progress = feed.progress()
        if progress == self._progress:
            self._still_ns += min(now - self._looked_ns, 2 * SLICE_NS)
        else:
            self._progress = progress
            self._still_ns = 0
        self._looked_ns = now
        return self._still_ns
