"""A thread that supervises a watchdog while a VM is held.

Danger: a watchdog may be killed or frozen while its owner scans for minutes; the VM would stay
stopped until the owner's next request to it. Decision: its pidfd is waited for, and some seconds
after the longest time of the pause it is asked whether it lives.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

from pagecheck.child.signals import signals_held
from pagecheck.clock import POLL_MAX_MS


class Guard:
    """Runs from the beginning of a hold to its end."""

    def __init__(self, pid: int, seconds: float, act: Callable[[bool], None]) -> None:
        """Starts the thread.

        Args:
            pid: of the watchdog, a child of ours.
            seconds: after this time the watchdog has continued the VM, if it lives.
            act: called with True when it ended, at most once; with False when the time passed.

        Raises:
            OSError, RuntimeError: there is no descriptor or no thread left.
        """
        self._timeout_ms = min(int(seconds * 1000), POLL_MAX_MS)
        self._act = act
        with contextlib.ExitStack() as undo:
            self._pidfd = os.pidfd_open(pid)
            undo.callback(os.close, self._pidfd)
            self._over = os.eventfd(0, os.EFD_CLOEXEC)
            undo.callback(os.close, self._over)
            self._thread = threading.Thread(target=self._run, name="pagecheck-guard", daemon=True)
            with signals_held():  # it takes none that the main thread holds later
                self._thread.start()
            undo.pop_all()

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
        """Ends the thread; waits for what it is doing."""
        os.eventfd_write(self._over, 1)
        self._thread.join()
        os.close(self._over)
        os.close(self._pidfd)
