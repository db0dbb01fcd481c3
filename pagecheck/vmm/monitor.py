"""The watchdog's QMP connection: every wait is bounded, every failure is one line.

Only the watchdog's program imports this module: `qemu.qmp` is asyncio's, and nothing else of
pagecheck is. One command is out at a time: a QEMU that stands still answers it when it goes on, and
nothing is sent before that, so that nothing piles up and no late answer is taken for another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from qemu.qmp import EventListener, ExecuteError, QMPClient

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.answers import Answer

if TYPE_CHECKING:
    from qemu.qmp.message import Message

CONNECT_S: Final = 5.0
COMMAND_S: Final = 10.0
BUSY_S: Final = 0.02
CLOSE_S: Final = 2.0
EVENTS: Final = 1000  # kept; a peer that sends more has the oldest forgotten
CAUSE_CHARS: Final = 200

# What tells that guest RAM may have changed although the VM was stopped; see `hold.py`.
WATCHED: Final = ("RESUME", "RESET", "WAKEUP")


class Gone(SourceError):
    """Nobody listens on the socket any more: QEMU ended."""


class Refused(PeerError):
    """QEMU answered a command with an error."""


class Silent(PeerError):
    """QEMU did not answer in time; the connection and the command stay."""


class Lost(PeerError):
    """The connection is lost, or was never made."""


class Monitor:
    """A QMP session with the QEMU behind one Unix socket."""

    def __init__(self, path: str) -> None:
        self.name = f"qmp:{path}"
        self._path = path
        self._client: QMPClient | None = None
        self._out: asyncio.Task[Any] | None = None  # the command without an answer until now
        self._seen: deque[str] = deque(maxlen=EVENTS)
        self._listener = EventListener(WATCHED, self._note)
        logging.getLogger("qemu.qmp").disabled = True  # everything it says is raised, too

    def _note(self, event: Message) -> bool:
        self._seen.append(str(event["event"]))
        return False  # the library keeps what is accepted for ever

    async def connect(self) -> int:
        """Connects, or connects again, in at most 5 s.

        Returns:
            Process id of the listener, 0 where it is in a namespace that we cannot see.

        Raises:
            Gone: nobody listens.
            SourceError: it cannot be connected to.
            PeerError: it does not speak QMP, or says nothing.
        """
        await self.close()
        deadline = time.monotonic() + CONNECT_S
        connection = await self._connected(deadline)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        client = QMPClient()
        client.register_listener(self._listener)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await client.connect(connection)
        except TimeoutError as error:
            connection.close()
            raise PeerError(
                f"{self.name}: no QMP greeting in {CONNECT_S:.0f} s; a QMP socket serves one "
                "client at a time: end the other one, or give QEMU a second -qmp"
            ) from error
        except Exception as error:
            connection.close()
            raise PeerError(
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
        """Runs one command, for at most 10 s; one that is still out is waited for first.

        Returns:
            What it returned, as JSON values.

        Raises:
            Refused: QEMU answered with an error.
            Silent: no answer came.
            Lost: the connection is lost, or what came was no answer.
        """
        if self._client is None:
            raise Lost(f"{self.name}: is not connected")
        deadline = time.monotonic() + COMMAND_S
        if self._out is not None:
            await self._answered(self._out, "an earlier command", deadline)
        self._out = asyncio.ensure_future(self._client.execute(command, arguments))
        out = await self._answered(self._out, command, deadline)
        try:
            return out.result()
        except ExecuteError as error:
            raise Refused(f"{self.name}: QEMU refused {command}: {_line(str(error))}") from error
        except (Exception, asyncio.CancelledError) as error:
            why = await self.close()  # it knows more than who waited for the answer
            raise Lost(
                f"{self.name}: the connection was lost at {command} ({why}); has QEMU ended?"
            ) from error

    async def _answered(
        self, out: asyncio.Task[Any], command: str, deadline: float
    ) -> asyncio.Task[Any]:
        """Waits for a command, which stays out where the time passes; raises Silent then."""
        done, _ = await asyncio.wait({out}, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise Silent(f"{self.name}: QEMU did not answer {command} in {COMMAND_S:.0f} s")
        self._out = None
        if not out.cancelled():
            out.exception()  # else asyncio would tell of one that nobody asked for
        return out

    async def ask(self, command: str) -> Answer:
        """As `execute`, for an answer that is taken apart."""
        return Answer(self.name, command, await self.execute(command))

    def events(self) -> list[str]:
        """Takes the names of the events that came since the last call. Those that QEMU sent before
        an answer are among them once the answer is there."""
        seen = list(self._seen)
        self._seen.clear()
        return seen

    async def close(self) -> str:
        """Hangs up; QEMU goes on.

        Returns:
            Why the connection was lost before, if it was.
        """
        client, self._client = self._client, None
        why = "closed"
        if client is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await client.disconnect()
            except EOFError:
                why = "it hung up"
            except Exception as error:
                why = _cause(error)
        if self._out is not None:
            self._out.cancel()
            await asyncio.wait({self._out})
            self._out = None
        return why


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while isinstance(inner := getattr(error, "exc", None), BaseException):
        error = inner
    return _line(str(error)) or type(error).__name__


def _line(text: str) -> str:
    """What a peer or a library says, on one line of limited length."""
    words = " ".join(text[: 2 * CAUSE_CHARS].split())
    return "".join(each if each.isprintable() else "?" for each in words)[:CAUSE_CHARS]
