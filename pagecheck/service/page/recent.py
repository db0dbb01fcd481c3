"""The last scans of whole blocks, with a small picture of each, for the page.

Danger: a client may scan without end, and what is kept of it is memory of the service's. Decision:
a picture is made after its scan, from bitmaps that are there, at most ten a second; a few are kept,
of bounded size, and that much counts as memory of answers. A failure here is nobody's but the
page's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck import clock
from pagecheck.model import Counts
from pagecheck.picture.small import small_png
from pagecheck.picture.strip import Strip
from pagecheck.service.page.texts import name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.report.report import BlockReport

SCANS: Final = 16
PICTURES_BYTES: Final = 4096
KEPT_BYTES: Final = SCANS * (PICTURES_BYTES + 4096)  # with the texts of each
PERIOD_S: Final = 0.1
CELLS: Final = 128
WIDTH, HEIGHT = 256, 14

log = logging.getLogger(__name__)


class Scan(NamedTuple):
    """One scan that is over.

    Attributes:
        number: counts up; its pictures are asked for by it.
        at: when it ended, in seconds since 1970.
        source: what was scanned, as the client named it.
        answer: of a report; `saved`: for a save.
        pictures: PNGs for a light and for a dark ground; None where they could not be made.
    """

    number: int
    at: float
    client: int
    source: str
    answer: str
    counts: Counts
    checked: int
    seconds: float
    pictures: tuple[bytes, bytes] | None


class Recent:
    """Any thread may use it.

    Attributes:
        run: unlike that of any other run of a service: a browser that outlives one takes the
            pictures of the next for other ones, and loads its page, which may have other rows.
    """

    def __init__(self) -> None:
        self.run = f"{time.time_ns():x}"
        self._lock = threading.Lock()
        self._scans: deque[Scan] = deque(maxlen=SCANS)
        self._number = 0
        self._next_s = 0.0

    def all(self) -> list[Scan]:
        """The last ones, the latest first."""
        with self._lock:
            return list(reversed(self._scans))

    def picture(self, number: int, *, dark: bool) -> bytes | None:
        """The picture of one of them."""
        found = next((each.pictures for each in self.all() if each.number == number), None)
        return None if found is None else found[dark]

    def add(
        self,
        client: int,
        source: str,
        answer: str,
        blocks: Sequence[BlockReport],
        checked: int,
        seconds: float,
    ) -> None:
        """Keeps a scan, unless the last one was less than `PERIOD_S` ago.

        Args:
            client: the number of the client that asked.
            source, answer, blocks, checked: as of `Service.scanned`.
        """
        with self._lock:
            if clock.now_s() < self._next_s:
                return
            self._next_s = clock.now_s() + PERIOD_S
            self._number += 1
            number = self._number
        counts = Counts.sum(each.counts for each in blocks)
        what = (name(source), answer, counts, checked, seconds, _pictures(blocks))
        scan = Scan(number, time.time(), client, *what)
        with self._lock:
            self._scans.append(scan)


def _pictures(blocks: Sequence[BlockReport]) -> tuple[bytes, bytes] | None:
    """All blocks, one after the other."""
    try:
        strip = Strip(sum(each.block.pages for each in blocks), CELLS)
        first = 0
        for each in blocks:
            strip.add(each, first)
            first += each.block.pages
        light = small_png(strip.cells, WIDTH, HEIGHT)
        dark = small_png(strip.cells, WIDTH, HEIGHT, dark=True)
    except Exception:
        log.exception("the picture of a scan")
        return None
    return (light, dark) if len(light) + len(dark) <= PICTURES_BYTES else None
