"""One worker process: started, spoken to, looked after, killed and reaped.

Workers are fresh interpreters: nothing of the host program's memory, locks or threads reaches
them. They run in a session of their own, so that a Ctrl-C on the terminal is the coordinator's to
handle. Their stderr goes to a memfd, whose last line explains a worker that died without a word.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from pagecheck import clock
from pagecheck.child.wire import Closed, Link
from pagecheck.errors import (
    EngineError,
    InternalError,
    PagecheckError,
    ResourceError,
    UsageError,
)
from pagecheck.shm.ring import Ring
from pagecheck.shortage import refused

REAP_NS: Final = 5_000_000_000

log = logging.getLogger(__name__)

_BOOT: Final = (
    "import os, sys; sys.path.append(sys.argv[1]); "  # the standard library comes first
    "from pagecheck.workers.program import main; os._exit(main(int(sys.argv[2])))"
)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals that end the program come before or after: an exception between the start of a
    process and the note of it would leave the process to nobody. Workers let them in again."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


class WorkerDied(Exception):
    """The worker ended, hung up, or does not answer; the text says which."""


class WorkerProcess:
    """A running worker and our end of its socket pair."""

    def __init__(self, channel: int) -> None:
        """Starts it; `open` and its reply `ready` make it ready.

        Raises:
            EngineError: no process can be started here; ResourceError: not at this moment.
        """
        self.channel = channel
        self._closed = False
        if not sys.executable:
            raise EngineError("cannot start workers: sys.executable is not set")
        self._once = threading.Lock()
        with contextlib.ExitStack() as undo:
            call = "socketpair"
            try:
                self._link, theirs = Link.pair()
                undo.callback(self._link.close)
                with contextlib.closing(theirs):
                    call = "memfd_create"
                    self._stderr = os.memfd_create("pagecheck-worker-stderr")
                    undo.callback(os.close, self._stderr)
                    call = "vfork, execve, pipe2 or setsid"
                    self._process = self._spawn(theirs.fileno())
                    undo.callback(self._process.wait)
                    undo.callback(self._process.kill)
                call = "pidfd_open"
                self._pidfd = os.pidfd_open(self._process.pid)
            except OSError as error:
                doing = f"channel {channel}: cannot start a worker"
                raise refused(doing, error, call) from error
            undo.pop_all()

    def _spawn(self, fd: int) -> subprocess.Popen[bytes]:
        home = os.path.abspath(f"{__file__}/../../..")
        # -P: nothing beside the program is imported by accident; -S, -E, -s: neither
        # site-packages nor the environment are needed, and leaving them out starts faster.
        command = [sys.executable, "-P", "-S", "-E", "-s", "-c", _BOOT, home, str(fd)]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=(fd,),
            start_new_session=True,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def open(self, ring: Ring, settings: dict[str, Any]) -> None:
        """Gives it its ring.

        Args:
            settings: what else the message `open` holds.

        Raises:
            WorkerDied: it is gone already.
        """
        self._send({"open": {"channel": self.channel, **settings}}, (ring.fd, ring.control_fd))

    def attach(self, message: dict[str, Any], fd: int, wake: Callable[[], None]) -> None:
        """Asks it to attach a RAM block; `await_reply("attached", …)` tells the end of it.

        Args:
            wake: makes the worker look at its socket; called once the message is there.

        Raises:
            WorkerDied: it is gone.
        """
        self._send({"attach": message}, (fd,))
        wake()

    def detach(self, block: int, wake: Callable[[], None]) -> None:
        """Asks it to forget a block; `await_reply("detached", …)` tells the end of it."""
        self._send({"detach": {"block": block}})
        wake()

    def tell(self, message: dict[str, Any], fds: tuple[int, ...], wake: Callable[[], None]) -> None:
        """Sends a message of the caller's making and wakes the worker.

        Raises:
            WorkerDied: it is gone.
        """
        self._send(message, fds)
        wake()

    def _send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            self._link.send(message, fds)
        except Closed as error:
            raise WorkerDied(self._last_words(str(error))) from error
        except OSError as error:
            raise self._short("write to", error) from error

    def _short(self, what: str, error: OSError) -> PagecheckError:
        """An error of ours, which says nothing about the worker."""
        return refused(f"channel {self.channel}: cannot {what} worker {self.pid}", error)

    def await_reply(self, kind: str, deadline_ns: int) -> dict[str, Any] | None:
        """Waits for what it says next: `ready`, `attached` or `detached`.

        Returns:
            The body of the message; None when the absolute time passed.

        Raises:
            WorkerDied: it ended.
            EngineError: it says that the engine or kernel cannot run here.
            UsageError: it says that what was asked for makes no sense.
            ResourceError: it says that the host did not give it what it needs.
            InternalError: it says something else.
        """
        try:
            received = self._link.receive(deadline_ns)
        except Closed as error:
            raise WorkerDied(self._last_words(str(error))) from error
        except OSError as error:
            raise self._short("read from", error) from error
        if received is None:
            return None
        message, _fds = received
        if "error" in message:
            text = f"channel {self.channel}: {message['error'].get('message')}"
            known = {each.__name__: each for each in (EngineError, UsageError, ResourceError)}
            raise known.get(message["error"].get("class"), InternalError)(text)
        body = message.get(kind)
        if not isinstance(body, dict):
            raise InternalError(f"channel {self.channel}: worker said {message!r}, not {kind!r}")
        return body

    def is_alive(self) -> bool:
        """Whether it has not ended yet; does not wait."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def ask_to_end(self) -> None:
        """Hangs up: the worker ends at the end of its batch."""
        self._link.close()

    def wait_gone(self, deadline_ns: int) -> bool:
        """Waits for its end until the absolute time and reaps it. False: it still runs."""
        if self._closed:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        left_ms = max(0, -((clock.now_ns() - deadline_ns) // 1_000_000))
        if not poll.poll(left_ms):
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return True

    def send_kill(self) -> None:
        """Kills it, without waiting for its end."""
        with contextlib.suppress(OSError):  # it is gone already
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill(self) -> bool:
        """Kills and reaps it. False: it could not be reaped in 5 s (it waits for a device that
        does not answer); its segment is never looked at again, so it can do no harm."""
        if self._closed:
            return True
        self._link.close()
        self.send_kill()
        gone = self.wait_gone(clock.now_ns() + REAP_NS)
        if not gone:
            log.error("channel %d: worker %d cannot be reaped", self.channel, self.pid)
        return gone

    def close(self) -> None:
        """Closes our descriptors; the process must have ended or been given up. May be called
        twice."""
        if not self._once.acquire(blocking=False):
            return
        self._closed = True
        self._link.close()
        for fd in (self._pidfd, self._stderr):
            os.close(fd)

    def describe_end(self) -> str:
        """How it ended, for a message."""
        return self._last_words("ended")

    def _last_words(self, reason: str) -> str:
        if self._closed:
            return f"worker {self.pid} {reason}"
        self.wait_gone(clock.now_ns() + 200_000_000)
        status = self._process.returncode
        text = f"worker {self.pid} {reason}"
        if status is not None and status < 0:
            text = f"worker {self.pid} was killed by signal {-status}"
        elif status is not None:
            text = f"worker {self.pid} exited with status {status}"
        try:
            lines = os.pread(self._stderr, 65536, 0).decode(errors="replace").split("\n")
        except OSError:  # closed meanwhile: the coordinator is closing
            lines = []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{text}: {said}" if said else text
