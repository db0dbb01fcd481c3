"""One process of ours: started, spoken to, killed and reaped; left behind where it does not end.

It is a fresh interpreter: nothing of the host program's memory, locks or threads reaches it. It
runs in a session of its own, so that a Ctrl-C on the terminal is ours to handle. Its stderr goes to
a memfd, whose last line explains one that died without a word, and which never blocks it as a pipe
could whose reader is gone.
"""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import contextlib
import os
import sys
from _thread import allocate_lock

from pagecheck import clock
from pagecheck.child.spawn import Process
from pagecheck.child.wire import Closed, Link
from pagecheck.errors import EngineError, PagecheckError
from pagecheck.logs import Log
from pagecheck.printable import printable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final, Protocol

    class Pollable(Protocol):
        """A process of ours; `poll` reaps it if it has ended."""

        pid: int

        def poll(self) -> int | None:
            """Its exit status; None: it runs."""


REAP_NS: Final = 5_000_000_000
LAST_WORDS_NS: Final = 200_000_000  # to wait for the end of one that hung up
LAST_BYTES: Final = 4096  # of its stderr, of which the last line is shown
LAST_CHARACTERS: Final = 400

# -P: nothing beside the program is imported by accident; -S: no site-packages, which starts faster;
# -E, -s: nothing of the environment and of the user's own packages.
_ISOLATED: Final = ("-P", "-S", "-E", "-s")
_WITH_SITE: Final = ("-P", "-S")

# No descriptor that the host program made inheritable, and no folder of its: they may be where
# nothing answers, or be waited for by others.
_APART: Final = (
    "own = '/proc/self/fd'; fds = os.listdir(own) if os.path.isdir(own) else range(4096); "
    "[os.closerange(fd, fd + 1) for fd in map(int, fds) if fd > 2 and fd != int(sys.argv[2])]; "
    "os.chdir('/')"
)

log = Log(__name__)


class ChildDied(Exception):
    """The process is of no use any more; the text says why. Its subclasses say which it was."""


class ChildEnded(ChildDied):
    """It ended, or hung up."""


class ChildSilent(ChildDied):
    """It owes an answer for longer than it may."""


class Program:
    """What a fresh interpreter runs.

    Attributes:
        code: the text of the program.
        flags: the interpreter's.
    """

    def __init__(self, find_main: str, *, needs_site: bool = False) -> None:
        """Describes it; nothing is started.

        Args:
            find_main: a statement that defines `main`, which is called with the number of the
                process's end of the socket pair and the words it is started with, and returns the
                exit status.
            needs_site: it imports what is installed beside pagecheck.
        """
        # The standard library first, then pagecheck, then whatever else is installed.
        site = "import site; site.main(); " if needs_site else ""
        self.code = (
            f"import os, sys; {_APART}; sys.path.append(sys.argv[1]); {site}"
            f"{find_main}; os._exit(main(int(sys.argv[2]), *sys.argv[3:]))"
        )
        self.flags = _WITH_SITE if needs_site else _ISOLATED

    def command(self, fd: int, words: tuple[str, ...]) -> list[str]:
        """The command line.

        Args:
            fd: the process's end of the socket pair.
        """
        home = os.path.abspath(f"{__file__}/../../..")
        return [sys.executable, *self.flags, "-c", self.code, home, str(fd), *words]


class Child:
    """A running process and our end of the socket pair between us.

    Its methods may be called by several threads; `send` and `receive` by one at a time.
    """

    def __init__(
        self,
        role: str,
        program: Program,
        words: tuple[str, ...] = (),
        *,
        where: str = "",
    ) -> None:
        """Starts it. Call this with `signals_held`.

        Args:
            role: what messages call it, such as "worker".
            words: what the program is started with.
            where: what messages begin with, such as "channel 3: ".

        Raises:
            EngineError: no process can be started here; ResourceError: not at this moment.
        """
        self.role = role
        self._where = where
        self._closed = False
        self._once = allocate_lock()
        if not sys.executable:
            raise EngineError(f"{where}cannot start a {role}: sys.executable is not set")
        reap_left_behind()
        with contextlib.ExitStack() as undo:
            call = "socketpair"
            try:
                self._link, theirs = Link.pair()
                undo.callback(self._link.close)
                with contextlib.closing(theirs):
                    call = "memfd_create"
                    self._stderr = os.memfd_create(f"pagecheck-{role}-stderr")
                    undo.callback(os.close, self._stderr)
                    call = "clone, execve or setsid"
                    fd = theirs.fileno()
                    self._process = self._spawn(program.command(fd, words), fd)
                call = "pidfd_open"
                self._process.open_pidfd()
            except OSError as error:
                from pagecheck.shortage import no_process  # not needed where all goes well

                raise no_process(f"{where}cannot start a {role}", error, call) from error
            undo.pop_all()

    def _spawn(self, command: list[str], fd: int) -> Process:
        return Process(command, fd, self._stderr)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Sends a message without waiting.

        Raises:
            ChildEnded: it is gone, or takes no more.
            ResourceError, EngineError: an error of ours, which says nothing about the process.
        """
        try:
            self._link.send(message, fds)
        except Closed as error:
            raise self._ended(error) from error
        except OSError as error:
            raise self._refused("write to", error) from error

    def receive(self, deadline_ns: int) -> tuple[dict[str, Any], list[int]] | None:
        """Waits for one message until the absolute time.

        Returns:
            The message and its descriptors (now ours), or None when the time passed.

        Raises:
            ChildEnded: it ended, or hung up.
            ResourceError, EngineError: an error of ours, which says nothing about the process.
            InternalError: what came is not a message.
        """
        try:
            return self._link.receive(deadline_ns)
        except Closed as error:
            raise self._ended(error) from error
        except OSError as error:
            raise self._refused("read from", error) from error

    def _refused(self, what: str, error: OSError) -> PagecheckError:
        return _refused(f"{self._where}cannot {what} {self.role} {self.pid}", error)

    def _ended(self, error: Closed) -> ChildEnded:
        return ChildEnded(self._last_words(str(error)))

    def is_alive(self) -> bool:
        """Whether it has not ended yet; does not wait."""
        return not clock.wait_ready(self._process.pidfd, 0)

    def hang_up(self) -> None:
        """Closes our end of the socket pair: the process ends once it notices."""
        self._link.close()

    def wait_gone(self, deadline_ns: int) -> bool:
        """Waits for its end until the absolute time and reaps it. False: it still runs."""
        if self._closed:
            return True
        return self._process.wait_ended(deadline_ns)

    def send_signal(self, number: int) -> None:
        """Sends it a signal, without waiting for what comes of it."""
        self._process.send_signal(number)

    def kill(self) -> bool:
        """Hangs up, kills and reaps it. False: it could not be reaped in 5 s (it waits for a device
        or a file system that does not answer)."""
        if self._closed:
            return True
        self._link.close()
        self.send_signal(_signal.SIGKILL)
        if not self._process.wait_ended(clock.now_ns() + REAP_NS):
            log.error("%s%s %d cannot be reaped", self._where, self.role, self.pid)
            return False
        return True

    def close(self) -> None:
        """Closes our descriptors. One that still runs is left behind: it is reaped when it has
        ended and another process is started. May be called twice."""
        if not self._once.acquire(blocking=False):
            return
        self._closed = True
        self._link.close()
        self._process.close()
        os.close(self._stderr)
        if self._process.poll() is None:
            leave_behind(self._process)

    def describe_end(self) -> str:
        """How it ended, for a message."""
        return self._last_words("ended")

    def _last_words(self, reason: str) -> str:
        text = f"{self.role} {self.pid} {reason}"
        if self._closed:
            return text
        self.wait_gone(clock.now_ns() + LAST_WORDS_NS)
        status = self._process.returncode
        if status is not None and status < 0:
            text = f"{self.role} {self.pid} was killed by signal {-status}"
        elif status is not None:
            text = f"{self.role} {self.pid} exited with status {status}"
        said = self.last_line()
        return f"{text}: {said}" if said else text

    def last_line(self) -> str:
        """The last of what it wrote to stderr; empty where it wrote nothing."""
        try:
            size = os.fstat(self._stderr).st_size
            end = os.pread(self._stderr, LAST_BYTES, max(0, size - LAST_BYTES))
        except OSError:  # closed meanwhile by another thread
            return ""
        text = end.decode(errors="replace").strip()
        return printable(text.rpartition("\n")[2].strip(), LAST_CHARACTERS)


_left_behind: list[Pollable] = []
_left_behind_lock = allocate_lock()


def _forget_left_behind() -> None:
    """In a forked copy of the host program: they are not its children, and the thread that held the
    lock does not exist there."""
    global _left_behind_lock
    _left_behind_lock = allocate_lock()
    _left_behind.clear()


os.register_at_fork(after_in_child=_forget_left_behind)


def leave_behind(process: Pollable) -> None:
    """Takes over a process that does not end; the next one that is started reaps it if it has."""
    with _left_behind_lock:
        _left_behind.append(process)


def reap_left_behind() -> int:
    """Reaps those that were left behind and have ended meanwhile; gives how many have not."""
    with _left_behind_lock:
        _left_behind[:] = [each for each in _left_behind if each.poll() is None]
        return len(_left_behind)


def left_behind() -> frozenset[int]:
    """Process ids of those that were left behind and have not ended: no other process has them."""
    reap_left_behind()
    with _left_behind_lock:
        return frozenset(each.pid for each in _left_behind)


def _refused(doing: str, error: OSError) -> PagecheckError:
    from pagecheck.shortage import refused

    return refused(doing, error)
