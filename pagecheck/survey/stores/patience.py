"""How long a request is tried again, and with what pauses."""

from __future__ import annotations

import random
from typing import NamedTuple

from pagecheck import clock
from pagecheck.logs import Log
from pagecheck.survey.stores.troubles import Trouble

log = Log(__name__)


class Patience(NamedTuple):
    """How long a store that fails is tried again.

    Attributes:
        first_s: about how long the first pause is; each further one is twice as long.
        longest_s: about how long the longest is.
        quiet_s: how long without a byte.
        absent_s: how long there is nobody to connect to.
        whole_s: how long a range takes at most, even where some bytes come.
    """

    first_s: float = 0.2
    longest_s: float = 10.0
    quiet_s: float = 60.0
    absent_s: float = 60.0
    whole_s: float = 600.0


READING = Patience()
LISTING = Patience(
    quiet_s=20.0, absent_s=3.0, whole_s=3600.0
)  # a wrong address should be said soon


class Tries:
    """The tries of one request: when the next one is made, and when there is none."""

    def __init__(self, what: str, patience: Patience) -> None:
        """Begins to count.

        Args:
            what: the request, for the log.
        """
        self._what = what
        self._patience = patience
        self._began_s = self._last_s = clock.now_s()
        self._failed = 0
        self._count = 0

    @property
    def left_s(self) -> float:
        """Seconds that a try may take."""
        return max(self._began_s + self._patience.whole_s - clock.now_s(), 0.001)

    def pause_s(self, trouble: Trouble, *, progress: bool) -> float | None:
        """How long to wait before the next try, at random, so that many do not come at once.

        Args:
            trouble: of the last try.
            progress: it brought some bytes.

        Returns:
            None: there is no point in another.
        """
        now = clock.now_s()
        self._count += 1
        if progress:
            self._last_s, self._failed = now, 0
        if not trouble.passing:
            return None
        most = min(self._patience.first_s * 2.0 ** min(self._failed, 30), self._patience.longest_s)
        self._failed += 1
        pause: float = max(most * random.uniform(0.5, 1.0), trouble.wait_s)
        quiet_s = self._patience.absent_s if trouble.absent else self._patience.quiet_s
        ends = min(self._last_s + quiet_s, self._began_s + self._patience.whole_s)
        if now + pause > ends:
            return None
        log.info("%s: %s; tried again in %.1f s", self._what, trouble.text, pause)
        return pause

    def text(self, trouble: Trouble) -> str:
        """Why there is no other."""
        if not trouble.passing:
            return trouble.text
        seconds = clock.now_s() - self._began_s
        times = f"{self._count} times in {seconds:.0f} s" if self._count > 1 else "once"
        return f"{trouble.text}; tried {times}"
