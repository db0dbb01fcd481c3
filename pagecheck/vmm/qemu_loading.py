"""Loads a saved state into a QEMU that was started with `-S -incoming defer`.

QEMU gets a pipe, by its descriptor, which we fill: it opens no file of ours, and what is behind the
state's file cannot stall it. Before 9.1 QEMU ends where a load fails, and says why on its stderr
only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Any, Final

from pagecheck import clock
from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.printable import printable
from pagecheck.shortage import refused
from pagecheck.vmm.pause import QemuMonitor
from pagecheck.vmm.qemu_asking import asked
from pagecheck.vmm.qemu_machine import version_of

LOAD_S: Final = 60.0

_INCOMING: Final = "inmigrate"
_NAME: Final = "pagecheck-state"
_STAYS_SINCE: Final = (9, 1)  # a QEMU that stays, and answers, where a load fails
_PIPE_BYTES: Final = 1 << 20
_STEP_S: Final = 0.002
_WHY_CHARS: Final = 300


def load_state(monitor: QemuMonitor, fd: int, within_s: float = LOAD_S) -> None:
    """Loads a state; the VM is paused afterwards, as `-S` says.

    Args:
        fd: the migration stream, from its first byte on.
        within_s: how long it may take.

    Raises:
        UsageError: QEMU was not started with `-incoming defer`.
        SourceError: the stream cannot be read.
        PeerError: QEMU does not load it, or not in time.
        ResourceError: no pipe can be made.
    """
    until = clock.now_s() + within_s
    if (status := _status(monitor)) != _INCOMING:
        raise UsageError(
            f"{monitor.name}: QEMU's status is {status}; start it with -S -incoming defer"
        )
    pipe = _Pipe(monitor.name, fd)
    try:
        monitor.execute("getfd", (pipe.reader,), fdname=_NAME)
        pipe.hand_over()
        _begin(monitor)
        while (status := _status(monitor)) == _INCOMING:
            _require_not_failed(monitor)
            if clock.now_s() > until:
                raise PeerError(f"{monitor.name}: QEMU did not load the state in {within_s:.0f} s")
            if not pipe.fill():
                clock.sleep_s(_STEP_S)
    finally:
        pipe.close()


def _begin(monitor: QemuMonitor) -> None:
    arguments: dict[str, Any] = {"uri": f"fd:{_NAME}"}
    if version_of(monitor)[:2] >= _STAYS_SINCE:
        arguments["exit-on-error"] = False
    monitor.execute("migrate-incoming", **arguments)


def _status(monitor: QemuMonitor) -> str:
    try:
        return asked(monitor, "query-status").member("status").text()
    except PeerError as error:
        raise PeerError(
            f"{error}; where QEMU ended, it could not load the state: what it printed last says why"
        ) from error


def _require_not_failed(monitor: QemuMonitor) -> None:
    answer = asked(monitor, "query-migrate")
    status = answer.optional("status")
    if status is not None and status.text() == "failed":
        why = answer.optional("error-desc")
        shown = "it does not say why" if why is None else printable(why.text(), _WHY_CHARS)
        raise PeerError(f"{monitor.name}: QEMU could not load the state: {shown}")


class _Pipe:
    """What QEMU reads, filled from a file without waiting.

    Attributes:
        reader: QEMU's end.
    """

    def __init__(self, name: str, fd: int) -> None:
        self._name, self._fd = name, fd
        self._offset = 0
        try:
            self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise refused(f"{name}: cannot load its state", error, "pipe2") from error
        os.set_blocking(self._writer, False)
        with contextlib.suppress(OSError):  # over the user's limit: a small one does too
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def hand_over(self) -> None:
        """QEMU has its end now: we see when it closes it."""
        os.close(self.reader)
        self.reader = -1

    def fill(self) -> bool:
        """Writes what it takes; returns whether that was anything."""
        if self._writer < 0:
            return False
        try:
            piece = os.pread(self._fd, _PIPE_BYTES, self._offset)
        except OSError as error:
            raise SourceError(f"{self._name}: the state: {error.strerror}") from error
        if not piece:
            self._end()
            return True
        try:
            self._offset += os.write(self._writer, piece)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise SourceError(f"{self._name}: the state: {error.strerror}") from error
            self._end()  # QEMU reads no more: it has all, or will say why
        return True

    def _end(self) -> None:
        os.close(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Closes what is open of it."""
        for fd in {self.reader, self._writer} - {-1}:
            os.close(fd)
        self.reader = self._writer = -1
