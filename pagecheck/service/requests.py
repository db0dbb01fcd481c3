"""The connection that a client has to a service: the greeting, requests, replies.

Danger: a reply may come after nobody waits for it any more, and with it what it attached or opened.
Decision: requests have numbers; a late reply is known by its number, and what it brought is undone.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pagecheck.clock import Allowance
from pagecheck.errors import PagecheckError, PeerError, ResourceError, UsageError
from pagecheck.service.connecting import connect, credentials
from pagecheck.service.protocol import (
    PROTOCOL,
    REPLY_BYTES,
    Connection,
    NotReceived,
    close_all,
    parse,
)
from pagecheck.service.replies import Members, RemoteBlock, service_error
from pagecheck.shortage import explain, refused

if TYPE_CHECKING:
    from typing import Self

CONNECT_S: Final = 10.0
REPLY_S: Final = 60.0
UNDO_S: Final = 1.0
NEVER_NS: Final = 1 << 62
NUMBER_MAX: Final = (1 << 32) - 1  # of a channel or block


class NoReply(PeerError):
    """The service did not answer in time; the connection is good all the same."""


class Requests:
    """Requests to one service, one after the other; several threads may make them.

    Attributes:
        path: the service's socket.
        greeting: what the service reported of itself: version, protocol, layout, layouts,
            capabilities, limits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = CONNECT_S,
        service_uid: int | None = None,
    ) -> None:
        """Connects and reads the greeting.

        Args:
            path: the service's socket.
            timeout: seconds for both.
            service_uid: the user that the service runs as. Where it is neither root nor we, RAM is
                given to no service, and no answer trusted, of a user that is not named here:
                anybody could have made the socket.

        Raises:
            PeerError: nobody listens there, or it does not speak this protocol.
            AccessError, LimitError: the service refuses us.
        """
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._ids = 0
        self._late: dict[int, str] = {}  # commands whose reply is no longer waited for, by id
        self._broken = False
        self._pid = os.getpid()
        self._number = int.from_bytes(os.urandom(8), "little")  # no other connection has it
        limit = allowance(timeout)
        connected = connect(self.path, timeout)
        _pid, self._runs_as, _gid = credentials(connected)
        self._trusted = {0, os.geteuid(), service_uid}
        self._connection = Connection(connected, REPLY_BYTES)
        try:
            message, fds = self._receive(limit)
            close_all(fds)
            if "error" in message:
                raise service_error(message["error"])
            self.greeting = self._greeted(message.get("pagecheck"))
        except BaseException:
            self.close()
            raise

    def _greeted(self, given: Any) -> dict[str, Any]:
        """The greeting, if it is one of this protocol."""
        if not isinstance(given, dict):
            raise PeerError(f"{self.path}: does not greet as pagecheck")
        if given.get("protocol") != PROTOCOL:
            raise PeerError(
                f"{self.path}: speaks protocol {given.get('protocol')}, we speak {PROTOCOL}"
            )
        members = Members(given, f"{self.path}: the greeting")
        layout = members.integer("layout", 0, 1 << 32, 0)
        return {
            **given,
            "version": members.text("version", "of no version"),
            "capabilities": list(members.texts("capabilities")),
            "layouts": list(members.integers("layouts")) or [layout],
        }

    def require_trusted(self) -> None:
        """Raises PeerError where the service runs as a user that may not be given guest RAM."""
        if self._runs_as not in self._trusted:
            raise PeerError(
                f"{self.path}: the service there runs as user {self._runs_as}, neither as root "
                f"nor as user {os.geteuid()}; --via-uid {self._runs_as} (service_uid in Python) "
                "trusts it with guest RAM"
            )

    def require_capability(self, capability: str) -> None:
        """Raises PeerError where the service is too old for it."""
        if capability not in self.greeting.get("capabilities", ()):
            raise PeerError(f"{self.path}: the service is too old for {capability}; update it")

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        fds: Sequence[int] = (),
        *,
        timeout: float | None = REPLY_S,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Runs one command, as `service/schema.json` documents them.

        Args:
            fds: descriptors for the service; they stay the caller's.
            timeout: seconds; None: as long as it takes.
            on_event: called with the `data` of every event on the way.

        Returns:
            The members of `return`, and the descriptors that came, which are the caller's.

        Raises:
            PagecheckError: the service's own, by its class.
            NoReply: it does not answer in time. The connection is good, and so is everything that
                was attached and opened; the reply is dropped when it comes, and what it attached or
                opened is undone.
            PeerError: it hung up; connect again.
        """
        limit = allowance(timeout)
        self.require_same_process()
        with self._lock:
            if self._broken:
                raise PeerError(f"{self.path}: the connection is closed; connect again")
            self._ids += 1
            request = {"execute": command, "arguments": arguments or {}, "id": self._ids}
            try:
                self._send(request, fds, limit)
                self._late[self._ids] = command
                message, received = self._reply(limit, on_event)
                del self._late[self._ids]
            except (NoReply, ResourceError):
                raise
            except BaseException:
                self._broken = True
                self._connection.close()
                raise
        try:
            return self._members(command, message), received
        except PagecheckError:
            close_all(received)
            raise

    def _members(self, command: str, message: dict[str, Any]) -> dict[str, Any]:
        """What a command returned; raises the service's error."""
        if "error" in message:
            raise service_error(message["error"])
        members = message.get("return")
        if not isinstance(members, dict):
            raise PeerError(f"{self.path}: the answer to {command}: is not an object")
        return members

    def _send(self, request: dict[str, Any], fds: Sequence[int], limit: Allowance) -> None:
        """Raises NoReply where nothing was sent, since the service reads nothing; ResourceError
        where nothing was sent, for a shortage of ours."""
        try:
            self._connection.send(request, tuple(fds), limit.end_ns())
        except NotReceived as error:
            if self._connection.is_mid_line:
                raise PeerError(f"{self.path}: {error}; connect again") from error
            raise NoReply(f"{self.path}: the service does not read requests") from error
        except PeerError as error:
            raise PeerError(f"{self.path}: {error}; connect again") from error
        except OSError as error:
            raise refused(f"{self.path}: cannot send", error) from error

    def _reply(
        self, limit: Allowance, on_event: Callable[[dict[str, Any]], None] | None
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer to the newest request; those that come too late are dropped by their ids."""
        while True:
            message, received = self._receive(limit)
            number = message.get("id")
            if "event" not in message and (number == self._ids or _is_of_connection(message)):
                return message, received
            close_all(received)
            if "event" in message:
                if on_event is not None and number == self._ids:
                    on_event(message.get("data", {}))
            elif type(number) is int and number in self._late:
                self._undo(self._late.pop(number), message.get("return"))

    def _undo(self, command: str, members: Any) -> None:
        """What a reply that came too late attached or opened is nobody's."""
        undo: list[tuple[str, dict[str, Any]]] = []
        if command == "open-channel" and isinstance(members, dict):
            undo = [("close-channel", {"channel": members.get("channel")})]
        elif command == "attach" and isinstance(members, dict):
            given = Members(members, "a late answer to attach")
            numbers = given.each("blocks", lambda each: each.integer("block", 0, NUMBER_MAX))
            undo = [("detach", {"block": number}) for number in numbers]
        for name, arguments in undo:
            # Not of this request's numbers: its answer is nobody's, either.
            request = {"execute": name, "arguments": arguments, "id": f"late-{self._ids}"}
            self._send(request, (), allowance(UNDO_S))

    def _receive(self, limit: Allowance) -> tuple[dict[str, Any], list[int]]:
        while True:
            try:
                line = self._connection.receive(limit.step_end_ns())
            except PeerError as error:
                raise PeerError(f"{self.path}: {error}; connect again") from error
            if line is not None:
                message = parse(line.text)
                return (
                    self._not_received(message, line.fds) if line.is_short else (message, line.fds)
                )
            if limit.is_used_up():
                raise NoReply(f"{self.path}: the service did not answer in time")

    def _not_received(
        self, message: dict[str, Any], fds: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        """An answer whose descriptors this process had no room for, as an error of this process."""
        close_all(fds)
        members = message.get("return")
        if isinstance(members, dict) and "segment_bytes" in members:
            self._undo("open-channel", members)
        why = explain(OSError(errno.EMFILE, ""))
        error = {"class": "ResourceError", "desc": f"the answer could not be received: {why}"}
        return {"error": error, "id": message.get("id")}, []

    def own(self, block: RemoteBlock) -> RemoteBlock:
        """The block as one that this connection attached."""
        return block._replace(connection=self._number)

    def require_own(self, block: RemoteBlock) -> None:
        """Raises UsageError where another connection attached it: its number is another block's
        here, or will be."""
        if block.connection != self._number:
            raise UsageError(
                f"block {block.ram.name!r}: was attached by another connection; attach it by this "
                "one"
            )

    def is_same_process(self) -> bool:
        """Whether this process connected, and not the one that it was forked from."""
        return os.getpid() == self._pid

    def require_same_process(self) -> None:
        """Raises UsageError in a forked child: connection and channels are its parent's, and what
        both ask for would be answered to either."""
        if not self.is_same_process():
            raise UsageError(
                f"{self.path}: the connection is of process {self._pid}, which was forked; "
                "connect again in this one"
            )

    def is_hung_up(self) -> bool:
        """Whether the service, or this end, hung up; sends it nothing."""
        return self._broken or self._connection.is_closed()

    def close(self) -> None:
        """Hangs up. May be called twice."""
        self._broken = True
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def allowance(seconds: float | None) -> Allowance:
    """So many seconds in which we run; None: as long as it takes.

    Raises:
        UsageError: it is not a number.
    """
    if seconds is not None and math.isnan(seconds):
        raise UsageError("nan: is not a number of seconds")
    return Allowance(NEVER_NS if seconds is None else int(min(seconds, 1e9) * 1e9))


def _is_of_connection(message: dict[str, Any]) -> bool:
    """An error of the connection rather than of one request."""
    return "error" in message and message.get("id") is None
