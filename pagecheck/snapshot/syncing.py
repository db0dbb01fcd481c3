"""RAM files that the disk takes while other work goes on.

Fact: of an open file a write that failed is reported once. Decision: what the thread is told is
raised again by `wait`, before anybody believes a later sync of the same file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Final

from pagecheck import clock
from pagecheck.child.signals import signals_held
from pagecheck.report.publish import sync
from pagecheck.shortage import no_thread

NAME: Final = "pagecheck-sync"


class Syncing:
    """Syncs files from now on, in a thread."""

    def __init__(self, fds: Sequence[int]) -> None:
        """Starts it.

        Args:
            fds: stay the caller's, who may close them meanwhile.

        Raises:
            ResourceError: no thread can be started.
            OSError: there is no descriptor left.
        """
        self._error: OSError | None = None
        self._fds: list[int] = []
        with signals_held():  # the thread closes the descriptors, once it has started
            try:
                for fd in fds:
                    self._fds.append(os.dup(fd))
                # A daemon: a disk that never answers keeps no process.
                self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
                self._thread.start()
            except BaseException as error:
                self._close()
                if isinstance(error, RuntimeError):
                    raise no_thread("syncing", error) from error
                raise

    def _run(self) -> None:
        try:
            for fd in self._fds:
                sync(fd)
        except OSError as error:
            self._error = error
        finally:
            self._close()

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def wait(self) -> None:
        """Returns once the disk has all of them.

        Raises:
            OSError: it does not take one.
        """
        while self._thread.is_alive():
            self._thread.join(clock.SLICE_S)
        if self._error is not None:
            raise self._error
