"""A QEMU that is started to continue a snapshot: started, given the state, and ended where that
fails.

Facts: a QEMU with `-incoming fd:N` waits for a stream on N, a socket, while QMP answers. It exits
by itself where the stream ends early, also before its first byte (from a socket; at the end of a
pipe 7.2 waits for ever), and runs the VM by itself once the stream was whole. Danger: we may be
killed at any moment, and a QEMU with half a state would stay. Decision: only we hold the other end
of that socket. Killed before the last byte, QEMU reads an early end and exits; after it, it has the
whole state and runs. No moment is between, and no other process has to watch.

Source: process_incoming_migration_co() in QEMU's migration/migration.c.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import IO, Final

from pagecheck import clock
from pagecheck.errors import PeerError
from pagecheck.printable import printable
from pagecheck.shortage import refused
from pagecheck.snapshot.qmp_session import Ended, QmpSession

START_S: Final = 120.0  # prealloc touches all RAM first
LOAD_S: Final = 120.0
END_S: Final = 10.0
_PIECE: Final = 1 << 20
_LOOK_S: Final = 0.0005  # between two looks at the status, doubled up to the second value
_LOOK_MAX_S: Final = 0.02
_MONITOR: Final = "pagecheck-incoming"


class IncomingQemu:
    """One QEMU, from its start until its VM runs; a context manager that ends it unless it does.

    Attributes:
        name: what messages call it.
        process: it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        paused: bool = False,
        name: str = "",
        stdin: int | IO[bytes] | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        """Starts it.

        Args:
            command: with the snapshot's RAM; the program first.
            paused: its VM stays stopped.
            stdin: its standard input; by default ours.
            fds: descriptors that it inherits.

        Raises:
            EngineError: it cannot be started.
        """
        self.name = name or os.path.basename(command[0])
        self._runs = False
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            connected, monitor = _pair(undo, theirs)
            self._state, state = _pair(undo, theirs)
            self.qmp = QmpSession(connected, self.name)
            words = [*command, *(["-S"] if paused else [])]
            words += ["-chardev", f"socket,id={_MONITOR},fd={monitor.fileno()}"]
            words += ["-mon", f"chardev={_MONITOR},mode=control"]
            words += ["-incoming", f"fd:{state.fileno()}"]
            try:
                self.process = subprocess.Popen(
                    words, stdin=stdin, pass_fds=(*fds, monitor.fileno(), state.fileno())
                )
            except OSError as error:
                raise refused(f"{printable(command[0])}: cannot be started", error) from error
            undo.pop_all()

    def wait_ready(self) -> None:
        """Waits until it answers and expects the state.

        Raises:
            PeerError: it ended, or does not.
        """
        deadline = clock.now_s() + START_S
        try:
            self.qmp.greet(deadline)
            status = self.qmp.status(deadline)
        except Ended as error:
            raise PeerError(
                f"{self.name}: {self._how_it_ended()} before it took the state"
            ) from error
        if status != "inmigrate":
            raise PeerError(
                f"{self.name}: its VM is {printable(status)}, and must wait for the state"
            )

    def load(self, fd: int, size: int, *, paused: bool = False) -> None:
        """Gives it the state, and waits until its VM runs, or stays stopped if that is wanted.

        Args:
            fd: of the file that holds the state.
            size: bytes of it.
            paused: as it was started.

        Raises:
            PeerError: it does not load it.
        """
        deadline = clock.now_s() + LOAD_S
        try:
            self._send(fd, size, deadline)
            status = self._loaded(deadline)
            if not paused and status != "running":  # stopped when its state was saved
                self.qmp.execute("cont", deadline)
                status = self.qmp.status(deadline)
        except Ended as error:
            raise PeerError(
                f"{self.name}: {self._how_it_ended()} while it loaded the state; its own message "
                "is above"
            ) from error
        if not paused and status != "running":
            raise PeerError(f"{self.name}: its VM is {printable(status)} after it was continued")
        self._runs = True
        self.qmp.close()

    def _send(self, fd: int, size: int, deadline: float) -> None:
        at = 0
        try:
            while at < size and (piece := os.pread(fd, min(_PIECE, size - at), at)):
                self._send_all(piece, deadline)
                at += len(piece)
        except TimeoutError as error:
            raise PeerError(f"{self.name}: does not take the state in {LOAD_S:.0f} s") from error
        except OSError:  # it refused what it had; its end says more
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired as error:
                raise PeerError(f"{self.name}: refused the state, and did not end") from error
        self._state.close()

    def _send_all(self, piece: bytes, deadline: float) -> None:
        rest = memoryview(piece)
        while rest:
            left = deadline - clock.now_s()
            self._state.settimeout(min(max(0.001, left), clock.SLICE_S))
            try:
                rest = rest[self._state.send(rest) :]
            except TimeoutError:
                if left <= clock.SLICE_S:
                    raise

    def _loaded(self, deadline: float) -> str:
        """The VM's status after the state was loaded."""
        wait_s = _LOOK_S
        while (status := self.qmp.status(deadline)) == "inmigrate":
            if clock.now_s() > deadline:
                raise PeerError(f"{self.name}: has not loaded the state in {LOAD_S:.0f} s")
            clock.sleep_s(wait_s)
            wait_s = min(2 * wait_s, _LOOK_MAX_S)
        return status

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return how_ended(self.process.wait(END_S))
        return "hung up"

    def _hang_up(self) -> None:
        self.qmp.close()
        self._state.close()

    def close(self) -> None:
        """Ends it unless its VM runs."""
        self._hang_up()
        if not self._runs:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> IncomingQemu:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _pair(
    ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket]:
    """Connected sockets, each of which a stack closes."""
    one, other = socket.socketpair()
    return ours.enter_context(one), theirs.enter_context(other)


def how_ended(returncode: int) -> str:
    """A process's end in words."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was ended by {name}"
