"""One running watchdog, as its owner sees it: started, asked, watched, left or killed.

Danger: a watchdog may be killed or frozen like any process. Decision: one that does not even send
`busy` for 15 s of our own running time counts as dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from pagecheck import clock
from pagecheck.child.wire import Closed, Link
from pagecheck.errors import EngineError, PagecheckError
from pagecheck.printable import printable
from pagecheck.shortage import refused

START_S: Final = 30.0  # a fresh interpreter, then 5 s for the connection
ANSWER_S: Final = 45.0  # the watchdog reports a timeout after 30 s
SILENT_S: Final = 15  # it sends `busy` every 2 s
DEAD_S: Final = 5.0
LAST_BYTES: Final = 4096

BOOT: Final = (
    # The standard library first, then pagecheck, then whatever else is installed.
    "import os, site, sys; sys.path.append(sys.argv[1]); site.main(); "
    "from pagecheck.vmm.watchdog import main; "
    "os._exit(main(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]))"
)

_left: list[subprocess.Popen[bytes]] = []  # watchdogs that stay; waited for when they have ended


class Died(Exception):
    """The watchdog ended or does not answer."""


class Gone(Died):
    """It ended."""


class WatchdogProcess:
    """A process of its own; see `watchdog.py` for what it receives and sends."""

    def __init__(self, path: str, known: list[int] | None = None) -> None:
        """Starts it; `greeting` has the result.

        Args:
            path: the QMP socket, absolute.
            known: who must listen there, if the VM may be stopped and is to be continued.

        Raises:
            EngineError: no process can be started here.
            ResourceError: no process can be started at this moment.
        """
        if not sys.executable:
            raise EngineError("cannot start a watchdog: sys.executable is not set")
        _left[:] = [each for each in _left if each.poll() is None]
        home = os.path.abspath(f"{__file__}/../../..")
        with contextlib.ExitStack() as undo:
            try:
                self._stderr = os.memfd_create("pagecheck-watchdog")
                undo.callback(os.close, self._stderr)
                self._link, theirs = Link.pair()
                undo.callback(self._link.close)
            except OSError as error:
                raise _not_started(error, "memfd_create or socketpair") from error
            with contextlib.closing(theirs):
                fd = theirs.fileno()
                words = [home, str(fd), path, str(os.getpid()), json.dumps(known) if known else ""]
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-S", "-c", BOOT, *words],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=self._stderr,
                        pass_fds=(fd,),
                        start_new_session=True,
                        cwd="/",
                    )
                except OSError as error:
                    raise _not_started(error, "vfork, execve, pipe2 or setsid") from error
            undo.pop_all()
        self._asked = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; one to an earlier request, whose wait an
        exception ended, is skipped.

        Raises:
            Died: there is none.
        """
        self._asked += 1
        try:
            self._link.send({**message, "id": self._asked})
        except Closed as error:
            raise self._gone() from error
        until = clock.now_s() + ANSWER_S
        while (answer := self._receive(until, SILENT_S)).get("id") != self._asked:
            pass
        return answer

    def greeting(self) -> dict[str, Any]:
        """Its first message.

        Raises:
            Died: nothing.
        """
        return self._receive(clock.now_s() + START_S, int(START_S))

    def _receive(self, until: float, silent_s: int) -> dict[str, Any]:
        """The next packet; the silence is counted in our own running time, second by second."""
        received = None
        for _ in range(silent_s):
            try:
                received = self._link.receive(clock.now_ns() + 1_000_000_000)
            except Closed as error:
                raise self._gone() from error
            if received is not None:
                break
        if received is None or clock.now_s() > until:
            raise Died(f"watchdog {self.pid} does not answer")
        message, fds = received
        try:
            if "large" in message and fds:
                message = json.loads(os.pread(fds[0], int(message["large"]), 0))
        finally:
            for fd in fds:
                os.close(fd)
        return message

    def _gone(self) -> Gone:
        said = f" ({last})" if (last := self._last_line()) else ""
        return Gone(f"watchdog {self.pid} is gone{said}")

    def _last_line(self) -> str:
        """The last of what it wrote to stderr."""
        size = os.fstat(self._stderr).st_size
        text = os.pread(self._stderr, LAST_BYTES, max(0, size - LAST_BYTES)).decode(
            errors="replace"
        )
        return printable(text.strip().rpartition("\n")[2], 200)

    def end(self) -> None:
        """Hangs up and waits a little for its end, which comes at once where nothing is held."""
        self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=DEAD_S)
        self._forget()

    def leave(self) -> None:
        """Hangs up; it stays until the VM runs or is gone."""
        self._link.close()
        self._forget()

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()
        self.end()

    def _forget(self) -> None:
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        if self._process.poll() is None:
            _left.append(self._process)


def _not_started(error: OSError, call: str) -> PagecheckError:
    return refused("cannot start a watchdog", error, call)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """An exception between the start of the watchdog and the note of it would leave it
    running. The watchdog unblocks them once it ignores them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
