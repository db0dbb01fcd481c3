"""The owner's end of a watchdog: a VMM that can be asked, and whose VM is paused and continued.

Danger: this process, or the watchdog, may be killed or frozen while the VM is stopped. The
watchdog continues the VM when this process dies (see `watchdog.py`); when the watchdog dies, a
thread of ours notices, and another watchdog continues the VM. Where the VMM itself is frozen the
watchdog is left running, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, Final, Self

from pagecheck import clock
from pagecheck.child.process import ChildDied, ChildEnded
from pagecheck.child.signals import signals_held
from pagecheck.errors import (
    EngineError,
    InternalError,
    PagecheckError,
    PeerError,
    SourceError,
    UsageError,
    from_wire,
)
from pagecheck.vmm.hold.acting import User
from pagecheck.vmm.hold.guard import Guard
from pagecheck.vmm.hold.watchdog_process import WatchdogProcess
from pagecheck.vmm.kinds import QEMU, VmmKind
from pagecheck.vmm.ram import PauseResult, PunchResult

STARTS_MAX: Final = 5  # watchdogs that die before they are ready
GRACE_S: Final = 5.0  # after the longest time of a pause, until the watchdog is checked

log = logging.getLogger(__name__)


class VmmMonitor:
    """A connection to a VMM's socket; a context manager.

    Usable from any thread; calls wait for each other.

    Attributes:
        name: the source as in messages.
        kind: which VMM it is.
        why_moved: why guest RAM may have changed in the last pause, where no status shows it; else
            empty.
        peer_pid: process id of the listener on the socket, which is the VMM unless another process
            opened the socket for it; 0 where it cannot be seen from here.
        connected_as: the place in `users` of the one that it was connected as.
    """

    def __init__(self, kind: VmmKind, path: str, users: Sequence[User | None] = (None,)) -> None:
        """Starts a watchdog, which connects.

        Args:
            kind: which VMM is expected there.
            path: its socket.
            users: those in whose names it may be connected to, in order; None is ourselves.

        Raises:
            AccessError: none of several users, or not the other user, may connect to it.
            SourceError: the socket cannot be connected to.
            PeerError: it is another program's, or nothing is answered.
            EngineError: no process can be started here, or a library is not installed.
            ResourceError: no process can be started at this moment.
        """
        self.name = f"{kind.prefix}:{path}"
        self.kind = kind
        self.peer_pid = 0
        self.why_moved = ""
        self.connected_as = 0
        self._users = users
        self._path = os.path.abspath(path)
        self._one = threading.RLock()
        self._closed = False
        self._held = False  # the VM is stopped by us, as far as we know
        self._bound = (0.0, 0.0)  # when the last pause began, and its longest time in seconds
        self._lost: SourceError | None = None  # the guard found the watchdog dead in this pause
        self._reported = False  # that a watchdog stays
        self._known: list[int] | None = None  # who listens on the socket
        self._process: WatchdogProcess | None = None
        self._guard: Guard | None = None
        if not path or "\0" in path:
            raise SourceError(
                f"{self.name!r}: not a path of a socket; write {kind.prefix}:/path/to/socket"
            )
        try:
            self._start(force=False)
        except BaseException:
            self.close()
            raise

    @property
    def place(self) -> tuple[int, int]:
        """Device and inode of the socket that it is connected to."""
        assert self._known is not None
        _pid, device, inode = self._known
        return device, inode

    @property
    def held(self) -> tuple[float, float] | None:
        """When the VM was stopped by us (`clock.now_s`) and for how many seconds at most; None
        where it is not, as far as we know. Waits for nobody."""
        return self._bound if self._held else None

    def _start(self, *, force: bool) -> WatchdogProcess:
        """Starts a watchdog. One that is killed meanwhile has stopped nothing yet: another one is
        tried.

        Args:
            force: it is to continue the VM, and stays even if it cannot connect.
        """
        for left in reversed(range(STARTS_MAX)):
            with signals_held():
                # Only our own rights are certain to continue a VM that we stopped.
                known, users = (self._known, (None,)) if force else (None, self._users)
                process = WatchdogProcess(self.kind.prefix, self._path, known, users)
                self._process = process
            try:
                ready = self._value(process.greeting(), "ready")
                break
            except ChildDied as error:
                self._process = None
                _end(process)
                if not left or not isinstance(error, ChildEnded):
                    raise EngineError(f"{self.name}: {error}, before it was ready") from error
                log.warning("%s: %s, before it was ready; starting another", self.name, error)
        self._known = [int(each) for each in ready["listener"]]
        self.peer_pid = self._known[0]
        if not force:
            self.connected_as = int(ready["user"])
        return process

    def execute(self, command: str, fds: tuple[int, ...] = (), **arguments: Any) -> Any:
        """Runs a command.

        Args:
            command: for QEMU a QMP command's name; for an API `GET` and a path.
            fds: descriptors that QEMU gets with it, for `add-fd` and `getfd`, which take one; they
                stay the caller's.
            **arguments: a QMP command's; pass a name with a dash as `**{"mem-path": ...}`.

        Returns:
            What it returned, as JSON values.

        Raises:
            PeerError: the VMM refused it, does not answer in 10 s, or ended.
            SourceError: the watchdog died.
        """
        return self._ask({"execute": command, "arguments": arguments}, fds)

    def pause(self, max_seconds: float) -> None:
        """Stops the VM if it is running.

        Args:
            max_seconds: after this time it is continued, whatever happens here; over 0.

        Raises:
            UsageError: it is paused by us already, or the time is invalid.
            SourceError: a migration is going on, or the watchdog died.
            PeerError: the VMM does not stop it.
        """
        if not 0 < max_seconds < 1e9:
            raise UsageError(f"{self.name}: cannot pause for {max_seconds} s; give more than 0")
        try:
            with self._one:
                self._pause(max_seconds)
        except PagecheckError:
            raise  # what was begun is undone by the watchdog
        except BaseException:
            self._undo()
            raise

    def _pause(self, max_seconds: float) -> None:
        self._lost, self._reported = None, False
        bound = (clock.now_s(), max_seconds)
        if not self._held:
            self._bound = bound
            # A watchdog that dies of this has stopped a VM that was running, and no other.
            self._held = bool(self._ask({"status": {}})["runs"])
        self._ask({"pause": {"max_ns": int(max_seconds * 1e9)}})
        self._bound = bound  # where that is refused, an earlier pause goes on
        if self._held and self._process is not None and self._guard is None:
            self._guard = self._guarding(self._process, max_seconds)

    def _undo(self) -> None:
        """Continues the VM after an exception of a signal, which may have come when the watchdog
        had done what it was asked for: what the caller does next may last."""
        with contextlib.suppress(PagecheckError):
            self._ask({"resume": {"leave": False}})
        self._end_guard()

    def punch(
        self, fd: int, unit: int, kernel: str, ranges: Sequence[tuple[int, int]]
    ) -> PunchResult:
        """Makes holes of the zero units of its RAM while it is paused; see `Hold.punch`.

        Raises:
            PeerError: the VMM does not answer.
            SourceError: the watchdog died.
        """
        request = {"unit": unit, "kernel": kernel, "ranges": ranges}
        answer = self._ask({"punch": request}, (fd,))
        return PunchResult(bool(answer["still"]), answer["zero_bytes"], answer["errno"])

    def resume(self, *, leave_stopped: bool = False) -> PauseResult:
        """Continues the VM, if it was us who stopped it.

        Args:
            leave_stopped: if its RAM was unchanged until now, it stays stopped.

        Raises:
            UsageError: there was no pause.
            PeerError: the VMM does not continue it, or ended; where it may still do so, a
                watchdog stays for that.
            SourceError: the watchdog died, so that nothing is known of the pause; or a migration
                took the VM away meanwhile.
        """
        return self._end_pause({"resume": {"leave": leave_stopped}})

    def quit(self) -> PauseResult:
        """Ends the pause, and QEMU with it, if the VM's RAM was unchanged until now; else the VM is
        continued, if it was us who stopped it. QEMU may still be there when it has answered.

        Raises:
            UsageError, SourceError: as `resume`.
            PeerError: as `resume`; or QEMU does not end, and the VM runs on.
        """
        return self._end_pause({"quit": {}})

    def _end_pause(self, message: dict[str, Any]) -> PauseResult:
        try:
            with self._one:
                return self._resume(message)
        except PagecheckError:
            raise
        except BaseException:
            self._undo()
            raise
        finally:
            self._end_guard()
            self._lost = None

    def _resume(self, message: dict[str, Any]) -> PauseResult:
        try:
            result = self._ask(message)
            self.why_moved = result.pop("why")
            return PauseResult(**result)
        except PeerError as error:
            if not self._held or self._process is None:
                raise
            self._reported = True
            raise PeerError(f"{error}; {self._stays(self._process)}") from error

    def is_stopped(self) -> bool:
        """Whether guest RAM is unchanged at this moment, whoever stopped the VM.

        Raises:
            PeerError: the VMM does not answer or ended.
        """
        return bool(self._ask({"status": {}})["still"])

    def close(self) -> None:
        """Continues the VM if it is stopped by us, and ends the watchdog, unless that has to stay
        because the VMM does not continue it. May be called twice."""
        self._end_guard()
        with self._one:
            self._closed = True
            if self._process is not None and self._finish(self._process):
                return
            if self._held and (why := self._force_resume()):
                log.error("%s: %s", self.name, why)
            if self._process is not None:
                self._finish(self._process)
            self._held = False

    def _finish(self, process: WatchdogProcess) -> bool:
        """Ends the watchdog, or leaves it where it has the VM still to continue.

        Returns:
            Whether it was alive.
        """
        self._process = None
        try:
            done = self._value(process.ask({"end": {}}), "return")
        except (ChildDied, PagecheckError):
            _end(process)
            return False
        if self._held:
            level = logging.INFO if self._reported else logging.WARNING
            log.log(level, "%s; %s", done["why"], self._stays(process))
            process.close()
            self._held = False  # it is the watchdog's now
            return True
        if done["why"]:
            log.warning("%s", done["why"])
        process.end()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> Any:
        with self._one:
            if self._lost is not None:
                raise self._lost
            if self._closed or self._process is None:
                raise UsageError(f"{self.name}: is closed")
            try:
                return self._value(self._process.ask(message, fds), "return")
            except ChildDied as error:
                raise self._replaced(self._process, str(error)) from error

    def _guarding(self, process: WatchdogProcess, max_seconds: float) -> Guard | None:
        def act(ended: bool) -> None:
            with self._one:
                if self._process is process and self._held:
                    self._check_watchdog(process, ended)

        try:
            return Guard(process.pid, max_seconds + GRACE_S, act)
        except (OSError, RuntimeError) as error:  # then the next call notices
            log.info("%s: watchdog %d is not supervised: %s", self.name, process.pid, error)
            return None

    def _check_watchdog(self, process: WatchdogProcess, ended: bool) -> None:
        """The watchdog ended while it held the VM, or it should have continued it by now."""
        try:
            if ended:
                raise ChildEnded(process.describe_end())
            self._value(process.ask({"status": {}}), "return")
        except ChildDied as error:
            self._lost = self._replaced(process, str(error))
        except PagecheckError as error:  # the VMM's failure, which the watchdog handles
            log.info("%s", error)

    def _end_guard(self) -> None:
        with self._one:
            guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()  # it may wait for the lock

    def _replaced(self, dead: WatchdogProcess, reason: str) -> SourceError:
        """Replaces a dead watchdog.

        Returns:
            What to raise: the request has no answer.
        """
        self._process = None
        _end(dead)  # one that only hangs has to release the socket
        did = "the connection was made again"
        if self._held:
            did = self._force_resume() or "the VM was continued"
        else:
            try:
                self._start(force=False)
            except PagecheckError as error:
                did = f"and another one: {error}"
        return SourceError(f"{self.name}: {reason}; {did}; start again")

    def _force_resume(self) -> str:
        """Has another watchdog continue the VM.

        Returns:
            Empty, or what became of the VM instead.
        """
        try:
            process = self._start(force=True)
            self._value(process.ask({"rescue": {}}), "return")
        except (ChildDied, PagecheckError) as error:
            if not self._held:
                return str(error)
            if self._process is not None and not isinstance(error, ChildDied):
                self._reported = True
                return f"{error}; {self._stays(self._process)}"
            self._process = None
            return f"the VM may be stopped: {self.kind.by_hand} ({error})"
        return ""

    def _stays(self, process: WatchdogProcess) -> str:
        return f"the VM is stopped: watchdog {process.pid} stays and continues it when that works"

    def _value(self, message: dict[str, Any], key: str) -> Any:
        if "held" in message:
            self._held = bool(message["held"])
        if "error" in message:
            raise from_wire(message["error"])
        if key not in message:
            raise InternalError(f"{self.name}: watchdog said {str(message)[:80]}, not {key}")
        return message[key]


class QemuMonitor(VmmMonitor):
    """A connection to a QEMU's QMP socket; a context manager."""

    def __init__(self, path: str, users: Sequence[User | None] = (None,)) -> None:
        """Starts a watchdog, which connects.

        Args:
            path: QEMU's socket of -qmp unix:PATH.
            users: as of a `VmmMonitor`.

        Raises:
            AccessError, SourceError, PeerError, EngineError, ResourceError: as a `VmmMonitor`.
        """
        super().__init__(QEMU, path, users)


def _end(process: WatchdogProcess) -> None:
    process.kill()
    process.close()
