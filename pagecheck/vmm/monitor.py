"""The watchdog's QMP connection: every wait is bounded, every failure is one line.

Only the watchdog's program imports this module: `qemu.qmp` is asyncio's, and nothing else of
pagecheck is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

from qemu.qmp import EventListener, ExecuteError, QMPClient

from pagecheck.errors import SourceError

CONNECT_S: Final = 5.0
COMMAND_S: Final = 10.0
BUSY_S: Final = 0.02
CLOSE_S: Final = 2.0

# What tells that guest RAM may have changed although the VM was stopped; see `hold.py`.
WATCHED: Final = ("RESUME", "RESET", "WAKEUP")


class Gone(SourceError):
    """Nobody listens on the socket any more: QEMU ended."""


class Refused(SourceError):
    """QEMU answered a command with an error."""


class Monitor:
    """A QMP session with the QEMU behind one Unix socket."""

    def __init__(self, path: str) -> None:
        self.name = f"qmp:{path}"
        self._path = path
        self._client: QMPClient | None = None
        self._events = EventListener(WATCHED)

    async def connect(self) -> int:
        """Connects, or connects again, in at most 5 s.

        Returns:
            Process id of the listener, 0 where it is in a namespace that we cannot see.

        Raises:
            Gone: nobody listens.
            SourceError: it cannot be connected to, or does not speak QMP.
        """
        await self.close()
        deadline = time.monotonic() + CONNECT_S
        connection = await self._connected(deadline)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        client = QMPClient()
        client.register_listener(self._events)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await client.connect(connection)
        except TimeoutError as error:
            connection.close()
            raise SourceError(
                f"{self.name}: no QMP greeting in {CONNECT_S:.0f} s; a QMP socket serves one "
                "client at a time: end the other one, or give QEMU a second -qmp"
            ) from error
        except Exception as error:
            connection.close()
            raise SourceError(
                f"{self.name}: does not speak QMP ({_cause(error)}); give a socket that QEMU was "
                "started with as -qmp unix:PATH,server=on,wait=off"
            ) from error
        self._client = client
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    async def _connected(self, deadline: float) -> socket.socket:
        try:
            if not stat.S_ISSOCK(os.stat(self._path).st_mode):
                raise SourceError(
                    f"{self.name}: is no socket; give the path of QEMU's -qmp unix:PATH"
                )
            while (connection := self._try_connect()) is None:
                if time.monotonic() > deadline:
                    raise SourceError(
                        f"{self.name}: takes no connection in {CONNECT_S:.0f} s; other clients "
                        "wait for this QMP socket: end them, or give QEMU a second -qmp"
                    )
                await asyncio.sleep(BUSY_S)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Gone(
                f"{self.name}: nobody listens ({error.strerror}); start QEMU with "
                "-qmp unix:PATH,server=on,wait=off"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{self.name}: cannot connect: {reason}") from error
        return connection

    def _try_connect(self) -> socket.socket | None:
        """One try; None while the listener's queue is full, for which a Unix socket that does not
        block has nothing to wait on."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Runs one command, for at most 10 s.

        Returns:
            What it returned, as JSON values.

        Raises:
            Refused: QEMU answered with an error.
            SourceError: no answer came, or the connection is lost.
        """
        if self._client is None:
            raise SourceError(f"{self.name}: is not connected")
        try:
            async with asyncio.timeout(COMMAND_S):
                return await self._client.execute(command, arguments)
        except TimeoutError as error:
            raise SourceError(
                f"{self.name}: QEMU did not answer {command} in {COMMAND_S:.0f} s"
            ) from error
        except ExecuteError as error:
            raise Refused(f"{self.name}: QEMU refused {command}: {error}") from error
        except Exception as error:
            raise SourceError(
                f"{self.name}: the connection was lost at {command} ({_cause(error)}); "
                "has QEMU ended?"
            ) from error

    def events(self) -> list[str]:
        """Takes the names of the events that came since the last call. Those that QEMU sent before
        an answer are among them once the answer is there."""
        return [str(event["event"]) for event in self._events.clear()]

    async def close(self) -> None:
        """Hangs up; QEMU goes on."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await client.disconnect()


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while isinstance(inner := getattr(error, "exc", None), BaseException):
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__
