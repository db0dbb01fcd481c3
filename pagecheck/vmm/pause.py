"""The owner's end of a watchdog: a QEMU that can be asked, paused and continued.

Danger: this process, or the watchdog, may be killed while the VM stands still. The watchdog
continues the VM when this process dies (see `watchdog.py`); when the watchdog dies, this end
notices at the next call or at `close`, and starts another one that continues the VM.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from pagecheck.errors import EngineError, InternalError, PeerError, SourceError, UsageError
from pagecheck.shortage import refused
from pagecheck.vmm.ram import PauseResult
from pagecheck.wire import Closed, Link

START_S: Final = 30.0  # a fresh interpreter, then 5 s for the connection
ANSWER_S: Final = 45.0  # the watchdog gives up after 30 s and says so
END_S: Final = 75.0  # it tries to continue the VM for 60 s
DEAD_S: Final = 5.0

log = logging.getLogger(__name__)

_BOOT: Final = (
    # The standard library first, then pagecheck, then whatever else is installed.
    "import os, site, sys; sys.path.append(sys.argv[1]); site.main(); "
    "from pagecheck.vmm.watchdog import main; "
    "os._exit(main(int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))"
)
_ERRORS: Final = {each.__name__: each for each in (SourceError, PeerError, UsageError, EngineError)}


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """An exception between the start of the watchdog and the note of it would leave it to
    nobody. The watchdog lets them in again, once it is deaf to them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


class _Died(Exception):
    """The watchdog ended or does not answer."""


class _Process:
    """One running watchdog."""

    def __init__(self, path: str) -> None:
        if not sys.executable:
            raise EngineError("cannot start a watchdog: sys.executable is not set")
        home = os.path.abspath(f"{__file__}/../../..")
        try:
            self._link, theirs = Link.pair()
        except OSError as error:
            raise refused("cannot start a watchdog", error, "socketpair") from error
        self._asked = 0
        with contextlib.closing(theirs):
            fd = theirs.fileno()
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-S",
                        "-c",
                        _BOOT,
                        home,
                        str(fd),
                        path,
                        str(os.getpid()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(fd,),
                    start_new_session=True,
                    cwd="/",
                )
            except OSError as error:
                self._link.close()
                call = "vfork, execve, pipe2 or setsid"
                raise refused("cannot start a watchdog", error, call) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; one to an earlier request, whose wait an
        exception ended, is passed over."""
        self._asked += 1
        try:
            self._link.send({**message, "id": self._asked})
        except Closed as error:
            raise _Died(f"watchdog {self.pid} is gone") from error
        deadline_ns = time.monotonic_ns() + int(ANSWER_S * 1e9)
        while (answer := self._hear(deadline_ns)).get("id") != self._asked:
            pass
        return answer

    def greeting(self) -> dict[str, Any]:
        """What it says first."""
        return self._hear(time.monotonic_ns() + int(START_S * 1e9))

    def _hear(self, deadline_ns: int) -> dict[str, Any]:
        try:
            received = self._link.receive(deadline_ns)
        except Closed as error:
            raise _Died(f"watchdog {self.pid} is gone") from error
        if received is None:
            raise _Died(f"watchdog {self.pid} does not answer")
        message, fds = received
        try:
            if "large" in message and fds:
                message = json.loads(os.pread(fds[0], int(message["large"]), 0))
        finally:
            for fd in fds:
                os.close(fd)
        return message

    def end(self, within_s: float) -> int | None:
        """Hangs up and waits for its end.

        Returns:
            Its exit status, negative for a signal; None while it still runs.
        """
        self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=within_s)
        return None

    def kill(self) -> None:
        self._process.kill()
        self.end(DEAD_S)


class QemuMonitor:
    """A connection to a QEMU's QMP socket; a context manager.

    Usable from any thread; calls wait for each other.

    Attributes:
        name: the source as in messages.
        peer_pid: process id of whoever listens on the socket, which is QEMU unless somebody else
            opened the socket for it; 0 where it cannot be seen from here.
    """

    def __init__(self, path: str) -> None:
        """Starts a watchdog, which connects.

        Args:
            path: QEMU's socket of -qmp unix:PATH.

        Raises:
            SourceError: the socket cannot be connected to.
            PeerError: it speaks no QMP, or says nothing.
            EngineError: no process can be started here, or `qemu.qmp` is not installed.
            ResourceError: no process can be started at this moment.
        """
        self.name = f"qmp:{path}"
        self.peer_pid = 0
        self._path = os.path.abspath(path)
        self._one = threading.RLock()
        self._closed = False
        self._paused = False  # by us, as far as we know
        self._process: _Process | None = None
        if not path or "\0" in path:
            raise SourceError(f"{self.name!r}: no path of a socket; write qmp:/path/to/socket")
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> _Process:
        with _signals_held():
            process = self._process = _Process(self._path)
        try:
            ready = self._value(process.greeting(), "ready")
        except _Died as error:
            process.kill()
            raise EngineError(f"{self.name}: {error}, before it was ready") from error
        self.peer_pid = int(ready["peer_pid"])
        return process

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs a QMP command.

        Args:
            command: its name.
            **arguments: its arguments; pass a name with a dash as `**{"mem-path": ...}`.

        Returns:
            What it returned, as JSON values.

        Raises:
            PeerError: QEMU refused it, does not answer in 10 s, or ended.
            SourceError: the watchdog died.
        """
        return self._ask({"execute": command, "arguments": arguments})

    def pause(self, max_seconds: float) -> None:
        """Stops the VM if it is running.

        Args:
            max_seconds: after this time it is continued, whatever happens here; over 0.

        Raises:
            UsageError: it is paused by us already, or the time makes no sense.
            SourceError: a migration is going on, or the watchdog died.
            PeerError: QEMU does not stop it.
        """
        if not 0 < max_seconds < 1e9:
            raise UsageError(f"{self.name}: cannot pause for {max_seconds} s; give more than 0")
        with self._one:
            was = self._paused
            # A watchdog that dies of this has stopped a VM that was running, and no other.
            self._paused = was or self._ask({"status": {}})["status"] == "running"
            try:
                done = self._ask({"pause": {"max_ns": int(max_seconds * 1e9)}})
            except (SourceError, PeerError, UsageError):
                self._paused = was and self._paused
                raise
            self._paused = bool(done["stopped_by_us"])

    def resume(self) -> PauseResult:
        """Continues the VM, if it was us who stopped it.

        Raises:
            UsageError: there was no pause.
            PeerError: QEMU does not continue it or ended.
            SourceError: the watchdog died, so that nothing is known of the pause.
        """
        with self._one:
            result = PauseResult(**self._ask({"resume": {}}))
            self._paused = False
            return result

    def is_stopped(self) -> bool:
        """Whether guest RAM stands still at this moment, whoever stopped the VM.

        Raises:
            PeerError: QEMU does not answer or ended.
        """
        return bool(self._ask({"status": {}})["still"])

    def close(self) -> None:
        """Continues the VM if it is stopped by us, and ends the watchdog; may be called twice."""
        with self._one:
            self._closed = True
            process, self._process = self._process, None
            if process is None:
                return
            status = process.end(END_S)
            if status is None:
                log.error("%s: watchdog %d does not end; it is left", self.name, process.pid)
            elif status == 1:
                log.error("%s: the VM could not be continued; run cont on its monitor", self.name)
            elif self._paused and status:
                self._rescue_quietly()

    def __enter__(self) -> QemuMonitor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any]) -> Any:
        with self._one:
            if self._closed or self._process is None:
                raise UsageError(f"{self.name}: is closed")
            try:
                return self._value(self._process.ask(message), "return")
            except _Died as error:
                raise self._replaced(self._process, str(error)) from error

    def _replaced(self, dead: _Process, reason: str) -> SourceError:
        """Puts another watchdog in the place of a dead one.

        Returns:
            What to raise: whatever was asked for has no answer.
        """
        dead.kill()  # one that only hangs has to let go of the QMP socket
        paused, self._paused = self._paused, False
        self._process = None
        try:
            process = self._start()
            if paused:
                self._value(process.ask({"rescue": {}}), "return")
        except (SourceError, PeerError, EngineError, _Died) as error:
            return SourceError(f"{self.name}: {reason}, and another one: {error}")
        did = "the VM was continued" if paused else "the connection was made anew"
        return SourceError(f"{self.name}: {reason}; {did}; start the scan again")

    def _rescue_quietly(self) -> None:
        try:
            process = self._start()
            try:
                self._value(process.ask({"rescue": {}}), "return")
            finally:
                self._process = None
                process.end(END_S)
        except (SourceError, PeerError, EngineError, _Died) as error:
            log.error("%s: the VM may stand still: %s; run cont on its monitor", self.name, error)

    def _value(self, message: dict[str, Any], key: str) -> Any:
        if "error" in message:
            error = message["error"]
            raise _ERRORS.get(error["class"], InternalError)(error["message"])
        if key not in message:
            raise InternalError(f"{self.name}: watchdog said {str(message)[:80]}, not {key}")
        return message[key]
