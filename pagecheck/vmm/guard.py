"""A thread that looks after a watchdog while a VM is held.

Danger: a watchdog may be killed or frozen while its owner scans for minutes; the VM would stand
still until the owner's next word with it. Decision: its pidfd is waited for, and once the longest
time of the pause is over for a while it is asked whether it lives.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from pagecheck.wire import POLL_MAX_MS


class Guard:
    """Runs from the beginning of a hold to its end."""

    def __init__(self, pidfd: int, seconds: float, act: Callable[[bool], None]) -> None:
        """Starts the thread.

        Args:
            pidfd: of the watchdog; taken over.
            seconds: after this time the watchdog has continued the VM, if it lives.
            act: called with True when it ended, at most once; with False when the time passed.
        """
        self._pidfd = pidfd
        self._over = os.eventfd(0, os.EFD_CLOEXEC)
        self._timeout_ms = min(int(seconds * 1000), POLL_MAX_MS)
        self._act = act
        self._thread = threading.Thread(target=self._run, name="pagecheck-guard", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        timeout_ms: int | None = self._timeout_ms
        while self._over not in (ready := {fd for fd, _ in poll.poll(timeout_ms)}):
            self._act(self._pidfd in ready)
            if ready:
                return
            timeout_ms = None

    def end(self) -> None:
        """Ends the thread; waits for what it does at this moment."""
        os.eventfd_write(self._over, 1)
        self._thread.join()
        os.close(self._over)
        os.close(self._pidfd)
