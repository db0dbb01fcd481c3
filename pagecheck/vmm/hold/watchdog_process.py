"""One running watchdog, as its owner sees it: started, asked, watched, left or killed.

Danger: a watchdog may be killed or frozen like any process. Decision: one that does not even send
`busy` for 15 s of our own running time counts as dead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Final

from pagecheck import clock
from pagecheck.child.process import Child, ChildSilent, Program
from pagecheck.vmm.hold.acting import User, to_text

START_S: Final = 30.0  # a fresh interpreter, then 5 s for the connection
ANSWER_S: Final = 45.0  # the watchdog reports a timeout after 30 s
SILENT_S: Final = 15  # it sends `busy` every 2 s
END_NS: Final = 5_000_000_000
STEP_NS: Final = 1_000_000_000

PROGRAM: Final = Program("from pagecheck.vmm.hold.watchdog import main", needs_site=True)


class WatchdogProcess(Child):
    """A process of its own; see `watchdog.py` for what it receives and sends."""

    def __init__(
        self,
        prefix: str,
        path: str,
        known: list[int] | None = None,
        users: Sequence[User | None] = (None,),
    ) -> None:
        """Starts it; `greeting` has the result.

        Args:
            prefix: of the VMM's kind.
            path: the VMM's socket, absolute.
            known: who must listen there, if the VM may be stopped and is to be continued.
            users: those in whose names it may connect, in order; see `acting.py`.

        Raises:
            EngineError: no process can be started here.
            ResourceError: no process can be started at this moment.
        """
        self._asked = 0
        listener = json.dumps(known) if known else ""
        arguments = (prefix, path, str(os.getpid()), listener, to_text(users))
        super().__init__("watchdog", PROGRAM, arguments)

    def ask(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Sends a request and waits for its answer; one to an earlier request, whose wait an
        exception ended, is skipped.

        Args:
            fds: descriptors for the request; they stay the caller's.

        Raises:
            ChildDied: there is none.
        """
        self._asked += 1
        self.send({**message, "id": self._asked}, fds)
        until = clock.now_s() + ANSWER_S
        while (answer := self._next(until, SILENT_S)).get("id") != self._asked:
            pass
        return answer

    def greeting(self) -> dict[str, Any]:
        """Its first message.

        Raises:
            ChildDied: nothing.
        """
        return self._next(clock.now_s() + START_S, int(START_S))

    def _next(self, until: float, silent_s: int) -> dict[str, Any]:
        """The next packet; the silence is counted in our own running time, second by second."""
        received = None
        for _ in range(silent_s):
            received = self.receive(clock.now_ns() + STEP_NS)
            if received is not None:
                break
        if received is None or clock.now_s() > until:
            raise ChildSilent(f"watchdog {self.pid} does not answer")
        message, fds = received
        try:
            if "large" in message and fds:
                message = json.loads(os.pread(fds[0], int(message["large"]), 0))
        finally:
            for fd in fds:
                os.close(fd)
        return message

    def end(self) -> None:
        """Hangs up and waits a little for its end, which comes at once where nothing is held."""
        self.hang_up()
        self.wait_gone(clock.now_ns() + END_NS)
        self.close()
