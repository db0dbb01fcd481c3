"""QMP over a socket that a QEMU of ours inherited: a few commands, each with a deadline.

The watchdog's connection is for VMs of others, whose hold must outlive us; a QEMU that we start has
nobody to be continued for, and a process more would cost more than all that is asked here.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from pagecheck import clock
from pagecheck.errors import PeerError
from pagecheck.printable import printable

_LINE_MAX: Final = 16 << 20
_TEXT_MAX: Final = 300


class Ended(PeerError):
    """QEMU hung up: it has ended, or is about to."""


class QmpSession:
    """A connected socket on which QEMU speaks QMP.

    Attributes:
        name: what messages call the QEMU.
    """

    def __init__(self, connected: socket.socket, name: str) -> None:
        """Takes the socket over; nothing is sent yet."""
        self.name = name
        self._socket = connected
        self._buffer = bytearray()

    def greet(self, deadline_s: float) -> None:
        """Waits for QEMU's greeting, and leaves the negotiation.

        Args:
            deadline_s: absolute, of `clock.now_s`.

        Raises:
            Ended: QEMU ended.
            PeerError: it says nothing until then, or something else.
        """
        if "QMP" not in self._next(deadline_s, "its greeting"):
            raise PeerError(f"{self.name}: does not speak QMP")
        self.execute("qmp_capabilities", deadline_s)

    def execute(self, command: str, deadline_s: float, **arguments: Any) -> Any:
        """Runs a command.

        Raises:
            Ended: QEMU ended.
            PeerError: it refuses the command, or does not answer until then.
        """
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.settimeout(max(0.001, deadline_s - clock.now_s()))
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except TimeoutError as error:
            raise self._silent(command) from error
        except OSError as error:
            raise self._ended() from error
        while True:
            answer = self._next(deadline_s, command)
            if "error" in answer:
                raise PeerError(
                    f"{self.name}: refused {command}: {printable(str(answer['error'])[:_TEXT_MAX])}"
                )
            if "return" in answer:
                return answer["return"]

    def status(self, deadline_s: float) -> str:
        """The VM's status, such as "inmigrate" or "running"."""
        found = self.execute("query-status", deadline_s)
        return str(found.get("status")) if isinstance(found, dict) else ""

    def _next(self, deadline_s: float, what: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline_s - clock.now_s()
            self._socket.settimeout(min(max(0.001, left), clock.SLICE_S))
            try:
                received = self._socket.recv(1 << 16)
            except TimeoutError as error:
                if left > clock.SLICE_S:
                    continue
                raise self._silent(what) from error
            except OSError as error:
                raise self._ended() from error
            if not received:
                raise self._ended()
            self._buffer += received
            if len(self._buffer) > _LINE_MAX:
                raise PeerError(f"{self.name}: sends more than a line of QMP may have")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PeerError(f"{self.name}: does not speak QMP") from error
        if not isinstance(found, dict):
            raise PeerError(f"{self.name}: does not speak QMP")
        return found

    def _ended(self) -> Ended:
        return Ended(f"{self.name}: ended")

    def _silent(self, what: str) -> PeerError:
        return PeerError(f"{self.name}: no answer to {what} in time; QEMU is ended")

    def close(self) -> None:
        """Hangs up; QEMU runs on."""
        self._socket.close()
