"""The watchdog's QMP connection: every wait is bounded, every failure is one line.

Only the watchdog's program imports this module: `qemu.qmp` is asyncio's, and nothing else of
pagecheck is. One command is in progress at a time: a QEMU that makes no progress answers it later,
and nothing is sent before that, so that nothing piles up and no late answer is taken for another.
One that is never answered would leave the VM stopped: at last the connection is abandoned for a new
one, which QEMU accepts only once it has carried out or dropped what was asked on the old one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from qemu.qmp import EventListener, ExecuteError, QMPClient

from pagecheck import clock
from pagecheck.errors import PeerError
from pagecheck.printable import printable
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.controller import Lost, Refused, Silent
from pagecheck.vmm.hold.listener import CONNECT_S, Listener, VmmSocket
from pagecheck.vmm.kinds import QEMU

if TYPE_CHECKING:
    from qemu.qmp.message import Message

COMMAND_S: Final = 10.0
ABANDON_S: Final = 30.0  # then a command is no longer waited for, nor its connection used
UNREAD_S: Final = 0.2  # for an answer that is there: this process may have been stopped itself
CLOSE_S: Final = 2.0
EVENTS: Final = 1000  # kept; of a peer that sends more the oldest are dropped
CAUSE_CHARS: Final = 200

# Events after which guest RAM may have changed although the VM was stopped.
WATCHED: Final = ("RESUME", "RESET", "WAKEUP")


class Monitor:
    """A QMP session with the QEMU behind one Unix socket.

    Attributes:
        name: the source as in messages.
        kind: QEMU.
    """

    def __init__(self, path: str, known: Listener | None = None) -> None:
        """Does not connect yet.

        Args:
            known: who must listen there; without it, whoever does at the first connection.
        """
        self.kind = QEMU
        self._place = VmmSocket(path, known, self.kind)
        self.name = self._place.name
        self._client: QMPClient | None = None
        self._in_progress: asyncio.Task[Any] | None = None  # the command that is not answered yet
        self._since_s = 0.0  # when it was sent
        self._seen: deque[str] = deque(maxlen=EVENTS)
        self._listener = EventListener(WATCHED, self._note)
        logging.getLogger("qemu").setLevel(logging.CRITICAL + 1)  # it raises what it says

    def _note(self, event: Message) -> bool:
        self._seen.append(str(event["event"]))
        return False  # the library keeps what is accepted for ever

    async def connect(self) -> Listener:
        """Connects, or connects again, in at most 5 s.

        Returns:
            Who listens there.

        Raises:
            Gone: QEMU ended since the first connection.
            SourceError: it cannot be connected to.
            PeerError: it does not speak QMP, or says nothing.
        """
        await self.close()
        deadline = clock.now_s() + CONNECT_S
        connection, listener = await self._place.connect(deadline)
        client = QMPClient()
        client.register_listener(self._listener)
        try:
            async with asyncio.timeout(max(0.0, deadline - clock.now_s())):
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
        self._place.keep(listener)
        return listener

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, fds: tuple[int, ...] = ()
    ) -> Any:
        """Runs one command, for at most 10 s; one that is in progress is waited for first.

        Args:
            fds: descriptors that QEMU gets with it; they stay the caller's.

        Returns:
            What it returned, as JSON values.

        Raises:
            Refused: QEMU answered with an error.
            Silent: no answer came.
            Lost: the connection is lost, what came was not an answer, or an earlier command was
                not answered for so long that the connection was abandoned.
        """
        if self._in_progress is not None and clock.now_s() - self._since_s > ABANDON_S:
            done, _ = await asyncio.wait({self._in_progress}, timeout=UNREAD_S)
            if not done:
                await self.close()
                raise Lost(f"{self.name}: QEMU did not answer a command in {ABANDON_S:.0f} s")
        if self._client is None:
            raise Lost(f"{self.name}: is not connected")
        deadline = clock.now_s() + COMMAND_S
        if self._in_progress is not None:
            await self._answered(self._in_progress, "an earlier command", deadline)
        try:
            for fd in fds:
                self._client.send_fd_scm(fd)
        except Exception as error:
            raise await self._lost(command) from error
        self._since_s = clock.now_s()
        self._in_progress = asyncio.ensure_future(self._client.execute(command, arguments))
        out = await self._answered(self._in_progress, command, deadline)
        try:
            return out.result()
        except ExecuteError as error:
            raise Refused(f"{self.name}: QEMU refused {command}: {_line(str(error))}") from error
        except (Exception, asyncio.CancelledError) as error:
            raise await self._lost(command) from error

    async def _lost(self, command: str) -> Lost:
        why = await self.close()  # this has the reason of the loss
        return Lost(f"{self.name}: the connection was lost at {command} ({why}); has QEMU ended?")

    async def _answered(
        self, out: asyncio.Task[Any], command: str, deadline: float
    ) -> asyncio.Task[Any]:
        """Waits for a command; raises Silent where the time passes: it stays in progress then."""
        done, _ = await asyncio.wait({out}, timeout=max(0.0, deadline - clock.now_s()))
        if not done:
            raise Silent(f"{self.name}: QEMU did not answer {command} in {COMMAND_S:.0f} s")
        self._in_progress = None
        if not out.cancelled():
            out.exception()  # else asyncio would report one that nobody asked for
        return out

    async def ask(self, command: str) -> Answer:
        """As `execute`, for an answer that is checked member by member."""
        return Answer(self.name, command, await self.execute(command))

    async def rest(self, seconds: float) -> None:
        """Waits so long, or until the command in progress was answered."""
        if self._in_progress is None or self._in_progress.done():
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait({self._in_progress}, timeout=seconds)

    def events(self) -> list[str]:
        """Takes the names of the events that came since the last call. Those that QEMU sent before
        an answer are among them once the answer is there."""
        seen = list(self._seen)
        self._seen.clear()
        return seen

    async def close(self) -> str:
        """Hangs up; QEMU runs on.

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
        if self._in_progress is not None:
            self._in_progress.cancel()
            await asyncio.wait({self._in_progress})
            self._in_progress = None
        return why


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while isinstance(inner := getattr(error, "exc", None), BaseException):
        error = inner
    return _line(str(error)) or type(error).__name__


def _line(text: str) -> str:
    """What a peer or a library reports, on one line of limited length."""
    return printable(" ".join(text[: 2 * CAUSE_CHARS].split()), CAUSE_CHARS)
