"""The watchdog's connection to a VMM's HTTP API: every wait is bounded, every failure is one line.

Only the watchdog's program imports this module. One request is in progress at a time, on one
connection: a VMM that makes no progress answers it later, and nothing is sent before that, so that
no late pause is carried out after a resume, as it could be on a second connection. One that is
never answered is abandoned in the end: the VMM may answer a new connection, and serves it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from typing import Final, NamedTuple

import h11

from pagecheck import clock
from pagecheck.errors import PeerError
from pagecheck.printable import printable
from pagecheck.vmm.hold.controller import Lost, Silent
from pagecheck.vmm.hold.listener import CONNECT_S, Listener, VmmSocket

REQUEST_S: Final = 10.0
ABANDON_S: Final = 30.0  # then a new connection is made; what was asked on the old one comes first
ANSWER_BYTES: Final = 8 << 20  # of one answer, its headers included
HEADER_BYTES: Final = 32768
CAUSE_CHARS: Final = 200
# A Unix socket that is closed with a request in it that was not read to its end, and therefore not
# carried out, resets the connection; one that was read ends it. Source: unix_release_sock() in
# the kernel's net/unix/af_unix.c.
_NOT_READ: Final = (ConnectionResetError, BrokenPipeError)
_PART_BYTES: Final = 65536


class Reply(NamedTuple):
    """What was answered.

    Attributes:
        status: as in RFC 9110.
        body: may be empty.
    """

    status: int
    body: bytes


class Request(NamedTuple):
    """What is asked.

    Attributes:
        body: JSON, or empty: there is none.
    """

    method: str
    target: str
    body: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


class HttpClient:
    """A client of the API behind one Unix socket."""

    def __init__(self, place: VmmSocket) -> None:
        """Does not connect yet."""
        self._place = place
        self._socket: socket.socket | None = None
        self._state = h11.Connection(h11.CLIENT)
        self._in_progress: asyncio.Task[Reply] | None = None  # the request that is not answered yet
        self._since_s = 0.0  # when it was sent

    async def connect(self, until: float = math.inf) -> Listener:
        """Connects, or connects again, in at most 5 s.

        Args:
            until: and not after this time, in seconds on CLOCK_MONOTONIC.

        Returns:
            Who listens there.

        Raises:
            Gone: the VMM ended since the first connection.
            SourceError: it cannot be connected to.
        """
        await self.close()
        self._socket, listener = await self._place.connect(min(until, clock.now_s() + CONNECT_S))
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES)
        self._place.keep(listener)
        return listener

    async def request(self, request: Request, seconds: float = 0.0) -> Reply:
        """Sends one request, after the one in progress was answered, and waits for its answer.

        Args:
            seconds: the longest time; by default 10 s.

        Raises:
            Silent: no answer came.
            Lost: the connection is lost, or what came was not an answer.
            Gone, SourceError: it was closed before, and cannot be made again.
        """
        seconds = seconds or REQUEST_S
        deadline = clock.now_s() + seconds
        if self._in_progress is not None and clock.now_s() - self._since_s > ABANDON_S:
            await self.close()
        if self._in_progress is not None:
            with contextlib.suppress(Lost):
                await self._answer("an earlier request", deadline, seconds)
        if self._socket is None or _is_closed(self._socket):
            await self.connect(deadline)  # between two requests the VMM may close it as it likes
        try:
            return await self._send(request, deadline, seconds)
        except Lost as error:
            if not isinstance(error.__cause__, _NOT_READ):
                raise
        await self.connect(deadline)  # it closed it as the request was on its way
        return await self._send(request, deadline, seconds)

    async def _send(self, request: Request, deadline: float, seconds: float) -> Reply:
        self._since_s = clock.now_s()
        self._in_progress = asyncio.ensure_future(self._exchange(request))
        return await self._answer(str(request), deadline, seconds)

    async def _answer(self, what: str, deadline: float, seconds: float) -> Reply:
        """Waits for the answer to the request in progress, which stays so where the time passes."""
        assert self._in_progress is not None
        name, kind = self._place.name, self._place.kind
        out = self._in_progress
        done, _ = await asyncio.wait({out}, timeout=max(0.0, deadline - clock.now_s()))
        if not done:
            raise Silent(f"{name}: {kind.vmm} did not answer {what} in {seconds:.0f} s")
        self._in_progress = None
        try:
            return out.result()
        except (Exception, asyncio.CancelledError) as error:
            await self.close()
            why = printable(" ".join(str(error).split())[:CAUSE_CHARS], CAUSE_CHARS)
            raise Lost(
                f"{name}: no answer to {what} ({why or type(error).__name__}); has {kind.vmm} "
                f"ended, or is this not the path of {kind.socket}?"
            ) from error

    async def _exchange(self, request: Request) -> Reply:
        assert self._socket is not None
        loop, connection, state = asyncio.get_running_loop(), self._socket, self._state
        await loop.sock_sendall(connection, _encoded(state, request))
        left, status, body = ANSWER_BYTES, 0, bytearray()
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                part = await loop.sock_recv(connection, _PART_BYTES)
                if not part and state.their_state is h11.SEND_RESPONSE:
                    raise PeerError("it hung up")
                left -= len(part)
                if left < 0:
                    raise PeerError(f"it is longer than {ANSWER_BYTES >> 20} MiB")
                state.receive_data(part)  # an empty part is the end of the connection
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        if state.our_state is h11.DONE and state.their_state is h11.DONE:
            state.start_next_cycle()
        else:  # its last answer on this connection, as it said
            self._socket = None
            connection.close()
        return Reply(status, bytes(body))

    async def rest(self, seconds: float) -> None:
        """Waits so long, or until the request in progress was answered."""
        if self._in_progress is None or self._in_progress.done():
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait({self._in_progress}, timeout=seconds)

    async def close(self) -> str:
        """Hangs up; the VMM runs on."""
        if self._in_progress is not None:
            self._in_progress.cancel()
            await asyncio.wait({self._in_progress})
            self._in_progress = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        return "closed"


def _encoded(state: h11.Connection, request: Request) -> bytes:
    """The bytes of a request."""
    headers = [("Host", "localhost"), ("Accept", "application/json")]
    body = request.body.encode()
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    head = h11.Request(method=request.method, target=request.target, headers=headers)
    parts = [state.send(head)]
    if body:
        parts.append(state.send(h11.Data(data=body)))
    parts.append(state.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def _is_closed(connection: socket.socket) -> bool:
    """Whether it is closed, or has what nobody asked for."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
