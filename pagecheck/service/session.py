"""One client: its connection, its resources, and the thread that serves it.

Danger: a client may send anything, send nothing, read nothing, or vanish at any moment. Decision:
its thread alone waits for it and works for it, every wait ends when the service ends, and whatever
happens here all of its resources are released.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.errors import (
    InternalError,
    LimitError,
    PagecheckError,
    ResourceError,
    UsageError,
    to_wire,
)
from pagecheck.service.client_process import ClientProcess
from pagecheck.service.commands import Commands, Reply
from pagecheck.service.limits import NAME_CHARS, SEND_BUFFER_BYTES, SEND_NS, Peer
from pagecheck.service.protocol import RECEIVE_STEP_NS, Connection, Line, close_all, parse
from pagecheck.service.resources import ClientResources
from pagecheck.service.rights import Rights
from pagecheck.shortage import explain, refused

if TYPE_CHECKING:
    from pagecheck.service.service import Service

PROGRESS_S: Final = 0.5  # between two progress events of a command
SLICE_NS: Final = RECEIVE_STEP_NS  # between two checks whether the service ends

log = logging.getLogger(__name__)


class _Gone(BaseException):
    """Nobody wants the answer any longer. Not an Exception: no caller may take it for an error of
    the command."""


class Session:
    """A connected client."""

    def __init__(self, service: Service, connected: socket.socket, peer: Peer) -> None:
        """Registers it.

        Raises:
            LimitError: there are too many; the socket stays the caller's.
        """
        self._service = service
        self._peer = peer
        self._since = time.time()
        self._doing: str | None = None
        self._commands_done = 0
        self._request_id: Any = None
        self._reported_s = 0.0
        self.resources = ClientResources(service.coordinator, service.counters)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._connected = connected
        self._connection = Connection(connected, senders=True)
        self._process: ClientProcess | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.number = 0
        service.clients.enter(self, trusted=peer.trusted)  # others see it from here on
        self._thread.name = f"pagecheck-client-{self.number}"
        service.counters.add("clients_accepted")

    def start(self) -> None:
        """Serves it from now on, in a thread of its own.

        Raises:
            RuntimeError: no thread can be started; the socket stays the caller's.
        """
        try:
            self._thread.start()
        except BaseException:
            self._service.clients.leave(self.number)
            raise

    @property
    def is_working(self) -> bool:
        """Whether a command runs at this moment."""
        return self._doing is not None

    def hang_up(self) -> None:
        """Ends its waits for the client."""
        self._connection.hang_up()

    def join(self, seconds: float) -> bool:
        """Waits for its end. False: it still runs."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def describe(self) -> dict[str, Any]:
        """This client as `query-stats` shows it."""
        return {
            "client": self.number,
            "pid": self._peer.pid,
            "uid": self._peer.uid,
            "seconds": round(time.time() - self._since, 3),
            "commands": self._commands_done,
            "doing": self._doing,
            "answer_bytes": self._service.answers.bytes_kept(self.resources.client),
            "blocks": [
                {"block": held.number, "name": held.block.ram.name, "size": held.block.ram.size}
                for held in list(self.resources.blocks.values())
            ],
            "channels": [
                {"channel": each.number, "worker": each.pid, "gone": each.is_gone}
                for each in list(self.resources.channels.values())
            ],
        }

    def _serve(self) -> None:
        log.info("client %d: process %d, user %d", self.number, self._peer.pid, self._peer.uid)
        why = "the service ends"
        try:
            # Before it is greeted; see `client_process.py`.
            self._process = ClientProcess(self._connected)
            rights = Rights(self._peer, self._process, self._service.policy)
            client = (self._peer, rights, self.resources)
            self._commands = Commands(self._service, *client, self._on_progress)
            self._send(Reply(self._commands.greeting()))
            while not self._service.ending.is_set():
                line = self._connection.receive(clock.now_ns() + SLICE_NS)
                if line is not None:
                    self._answer(line)
        except _Gone:
            why = "gone while a command ran"
        except LimitError as error:
            why = str(error)
            with contextlib.suppress(PagecheckError):
                self._send(Reply(_error(error, None)))
        except PagecheckError as error:
            why = str(error)
        except Exception:
            why = "a bug in pagecheck"
            log.exception("client %d", self.number)
        finally:
            self.resources.release_all()
            if self._process is not None:
                self._process.close()
            self._service.clients.leave(self.number)
            self._connection.close()
            log.info("client %d left: %s", self.number, why)

    def _answer(self, line: Line) -> None:
        """Runs one request; what came with it is closed here."""
        request_id = self._request_id = None
        try:
            message = parse(line.text)
            request_id = self._request_id = _checked_id(message)
            if line.is_short:
                why = explain(OSError(errno.EMFILE, ""))
                raise ResourceError(
                    f"descriptors that came with this line could not be received: {why}"
                )
            self._doing = str(message.get("execute"))[:40]
            self._service.counters.add("commands")
            reply = self._commands.run(message, line.fds, line.sender)
            answer = Reply({"return": reply.members}, reply.fds)
        except PagecheckError as error:
            self._service.counters.add("errors")
            answer = Reply(_error(error, request_id))
        except Exception as error:
            self._service.counters.add("errors")
            answer = Reply(_error(self._as_known(error), request_id))
        finally:
            self._doing = None
            close_all(line.fds)
        if request_id is not None:
            answer.members["id"] = request_id
        self._commands_done += 1
        try:
            self._send(answer)
        except OSError as error:  # a shortage of what the answer needs; an error needs none of it
            self._service.counters.add("errors")
            known = refused("cannot send the answer", error)
            self._send(Reply(_error(known, request_id)))

    def _as_known(self, error: Exception) -> PagecheckError:
        """An unexpected error, as the client gets it: a shortage, or a bug."""
        why = explain(error)
        if why is not None:
            return ResourceError(why)
        log.exception("client %d: %s", self.number, self._doing)
        return InternalError(f"a bug in pagecheck: {type(error).__name__}")

    def _send(self, reply: Reply) -> None:
        """Raises PeerError where the client does not read, OSError where this host is short of
        something."""
        try:
            self._connection.send(reply.members, reply.fds, clock.now_ns() + SEND_NS)
        finally:
            close_all(list(reply.fds))

    def _on_progress(self, data: dict[str, int] | None) -> None:
        if self._service.ending.is_set() or self._connection.is_closed():
            raise _Gone
        if data is not None and clock.now_s() - self._reported_s >= PROGRESS_S:
            self._reported_s = clock.now_s()
            event = {"event": "PROGRESS", "data": data}
            if self._request_id is not None:
                event["id"] = self._request_id
            self._send(Reply(event))


def _checked_id(message: dict[str, Any]) -> str | int | None:
    """The request's id, which is sent back.

    Raises:
        UsageError: it is neither a short string nor an integer.
    """
    given = message.get("id")
    if given is None or (type(given) is int and abs(given) < 1 << 63):
        return given
    if isinstance(given, str) and len(given) <= NAME_CHARS:
        return given
    raise UsageError(f"id: must be a string of at most {NAME_CHARS} characters, or an integer")


def _error(error: PagecheckError, request_id: Any) -> dict[str, Any]:
    wire = to_wire(error)
    members: dict[str, Any] = {"error": {**wire, "desc": " ".join(wire["desc"].split())}}
    if request_id is not None:
        members["id"] = request_id
    return members
