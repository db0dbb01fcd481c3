"""The Unix socket that a VMM answers on: connected to, and to the same one again.

Danger: the path is a name. After a connection is lost another VM may listen there, which must not
be continued in place of ours; and where nobody does, ours may live on. Decision: it is our VM only
where the kernel names the same listener and the same socket. It has ended where that socket
refuses, or where the process that listened has ended (the VMM, unless a launcher made the
socket).
Where that process cannot be seen the socket alone decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.kinds import VmmKind

CONNECT_S: Final = 5.0
BUSY_S: Final = 0.02


class Gone(PeerError):
    """Nobody listens on the socket any more: the VMM ended."""


class Listener(NamedTuple):
    """Who listens on a socket, and which socket that is.

    Attributes:
        pid: process id, 0 where it is in a namespace that we cannot see.
    """

    pid: int
    device: int
    inode: int


class VmmSocket:
    """Where a VMM listens.

    Attributes:
        name: the source as in messages.
        kind: what VMM is expected there.
    """

    def __init__(self, path: str, known: Listener | None, kind: VmmKind) -> None:
        """Nothing is asked yet.

        Args:
            known: who must listen there, if that is known.
            kind: what VMM is expected, in messages.
        """
        self.name = f"{kind.prefix}:{path}"
        self.kind = kind
        self._path = path
        self._known = known
        self._pidfd = None if known is None else _pidfd(known.pid)

    async def connect(self, deadline: float) -> tuple[socket.socket, Listener]:
        """Connects, without waiting for what the listener says.

        Args:
            deadline: absolute, on CLOCK_MONOTONIC, in seconds.

        Raises:
            Gone: who listened there has ended.
            SourceError: it cannot be connected to, or not at this moment.
        """
        connection, listener = await self._connected(deadline)
        if self._known not in (None, listener):
            connection.close()
            raise self._nobody("another socket is at its path")
        return connection, listener

    def keep(self, listener: Listener) -> None:
        """From now on only this listener is connected to."""
        if self._known is None:
            self._known, self._pidfd = listener, _pidfd(listener.pid)

    def has_ended(self) -> bool:
        """Whether the process that listened has ended."""
        return self._pidfd is not None and _has_ended(self._pidfd)

    def gone(self, why: str = "its process ended") -> Gone:
        """What to raise where it has."""
        return Gone(f"{self.name}: nobody listens any more ({why}): {self.kind.vmm} ended")

    async def _connected(self, deadline: float) -> tuple[socket.socket, Listener]:
        seconds = deadline - clock.now_s()
        try:
            if not stat.S_ISSOCK(os.stat(self._path).st_mode):
                raise SourceError(
                    f"{self.name}: is not a socket; give the path of {self.kind.socket}"
                )
            while (connection := self._try_connect()) is None:
                if clock.now_s() > deadline:
                    raise SourceError(
                        f"{self.name}: accepts no connection in {seconds:.2g} s; {self.kind.busy}"
                    )
                await asyncio.sleep(BUSY_S)
            try:
                return connection, self._who(connection)
            except BaseException:
                connection.close()
                raise
        except (FileNotFoundError, ConnectionRefusedError) as error:
            refused = isinstance(error, ConnectionRefusedError) and self._is_same_socket()
            raise self._nobody(str(error.strerror), refused=refused) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{self.name}: cannot connect: {reason}") from error

    def _who(self, connection: socket.socket) -> Listener:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("3i", credentials)[0]
        found = os.stat(self._path)
        return Listener(pid, found.st_dev, found.st_ino)

    def _is_same_socket(self) -> bool:
        """Whether what is at the path now is the socket that we were connected to."""
        with contextlib.suppress(OSError):
            found = os.stat(self._path)
            return self._known is not None and self._known[1:] == (found.st_dev, found.st_ino)
        return False

    def _nobody(self, why: str, *, refused: bool = False) -> SourceError | Gone:
        """What to raise where nobody listens, or another process.

        Args:
            refused: the very socket that we were connected to has no listener any more.
        """
        if self._known is None:
            return SourceError(f"{self.name}: nobody listens ({why}); {self.kind.start}")
        if refused or self._pidfd is None or _has_ended(self._pidfd):
            return self.gone(why)
        return SourceError(
            f"{self.name}: cannot connect again ({why}), but process {self._known.pid}, which "
            "listened there, lives"
        )

    def _try_connect(self) -> socket.socket | None:
        """One try; None while the listener's queue is full, for which a Unix socket that does not
        block has nothing to wait on."""
        connection = socket.socket(socket.AF_UNIX, self.kind.socket_type)
        try:
            connection.setblocking(False)
            connection.connect(self._path)
        except BlockingIOError:
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection


def _pidfd(pid: int) -> int | None:
    """A pidfd, None where there is no such process that we could see."""
    if pid <= 0:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _has_ended(pidfd: int) -> bool:
    return clock.wait_ready(pidfd, 0) != 0
