"""A program started and reaped by posix_spawn, at a fraction of what `subprocess` costs to load.

Facts: posix_spawn neither changes the folder nor closes descriptors that the host program made
inheritable; it holds all signals until the program runs, and a mask that was set before stays.
Decision: the program itself does both first of all, see `Program`. It begins a session of its own,
with the signals that Python ignores as they are by default. Only one that has ended and was not yet
waited for keeps its number, so it is waited for under a lock.
"""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import os
from _thread import allocate_lock

from pagecheck import clock

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

_UNIGNORED: Final = (_signal.SIGPIPE, _signal.SIGXFSZ)  # Python ignores them


class Process:
    """A running program.

    Attributes:
        pid: its process id.
        pidfd: readable once it has ended; ours to `close`.
        returncode: its exit status, -N where signal N killed it; None: it was not waited for yet.
    """

    def __init__(self, command: list[str], inherited: int, stderr: int) -> None:
        """Starts it, and `open_pidfd` completes it; /dev/null is its standard input and output.

        Args:
            inherited: a descriptor that it has under the same number.
            stderr: a descriptor that becomes its standard error.

        Raises:
            OSError: it cannot be started.
        """
        self.returncode: int | None = None
        self._waiting = allocate_lock()
        actions = [
            (os.POSIX_SPAWN_DUP2, stderr, 2),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, inherited, inherited),  # it is not closed by exec
        ]
        self.pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=actions,
            setsid=True,
            setsigdef=_UNIGNORED,
        )

    def open_pidfd(self) -> None:
        """Opens `pidfd`, without which there is only `poll`; where that fails, the program is
        killed and waited for.

        Raises:
            OSError: it cannot be opened.
        """
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except BaseException:
            os.kill(self.pid, _signal.SIGKILL)
            self._wait(0)
            raise

    def poll(self) -> int | None:
        """Its `returncode`, if it has ended; does not wait."""
        return self._wait(os.WNOHANG)

    def wait_ended(self, deadline_ns: int) -> bool:
        """Waits for its end until the absolute time, and reaps it. False: it still runs."""
        if self.returncode is None and clock.wait_ready(self.pidfd, deadline_ns):
            self.poll()
        return self.returncode is not None

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it is gone."""
        try:
            _signal.pidfd_send_signal(self.pidfd, number)
        except OSError:
            return

    def close(self) -> None:
        """Closes `pidfd`; it can still be polled."""
        os.close(self.pidfd)

    def _wait(self, options: int) -> int | None:
        with self._waiting:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, options)
                except ChildProcessError:  # the host program ignores SIGCHLD, or waits for all
                    self.returncode = 0
                else:
                    self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode
