"""A small QMP client: one connected socket, one command at a time, JSON lines, no threads.

Facts: QEMU greets first and accepts only `qmp_capabilities` until it got that; events come at
any time between other lines. Danger: a QEMU that hangs never answers. Decision: every wait has
a deadline, an answer is known by the command's id, and events are skipped.

Source: QEMU, docs/interop/qmp-spec.
"""

import json
import socket
import time
from typing import Any

from tools.guest.errors import DeadlinePassed, QmpError

_RECEIVE_BYTES = 1 << 16


class Qmp:
    """A QMP session in command mode.

    Args:
        connection: A connected stream socket; the session owns it.
        deadline: Until when QEMU may take for the greeting, in seconds of `time.monotonic`.

    Raises:
        DeadlinePassed: QEMU did not greet in time.
        QmpError: The peer closed the connection or does not speak QMP.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._received = bytearray()
        self._last_id = 0
        if "QMP" not in self._next_message("the greeting", deadline):
            raise QmpError("QMP: the first line is not a greeting")
        self.execute("qmp_capabilities", {}, deadline)

    def execute(self, command: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Runs one command and waits for its answer.

        Args:
            command: The command's name.
            arguments: Its arguments, as JSON values.
            deadline: Until when the answer must be there, in seconds of `time.monotonic`.

        Returns:
            What the command returned, as JSON values.

        Raises:
            DeadlinePassed: No answer came in time; the session can still be used.
            QmpError: QEMU refused the command or closed the connection.
        """
        self._last_id += 1
        request = {"execute": command, "arguments": arguments, "id": self._last_id}
        self._send(json.dumps(request).encode() + b"\n", command, deadline)
        while True:
            message = self._next_message(f"the answer to {command}", deadline)
            if message.get("id") != self._last_id:
                continue  # an event, or the answer to an abandoned command
            if "error" in message:
                raise QmpError(f"QMP: {command}: {message['error'].get('desc')}")
            return message["return"]

    def close(self) -> None:
        """Closes the connection; QEMU keeps running."""
        self._connection.close()

    def _send(self, line: bytes, command: str, deadline: float) -> None:
        self._connection.settimeout(_left(deadline, f"QEMU to take {command}"))
        try:
            self._connection.sendall(line)
        except TimeoutError as late:
            raise DeadlinePassed(f"QMP: QEMU did not take {command} in time") from late
        except OSError as error:
            raise QmpError(f"QMP: sending {command}: {error}") from error

    def _next_message(self, awaited: str, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._connection.settimeout(_left(deadline, awaited))
            try:
                chunk = self._connection.recv(_RECEIVE_BYTES)
            except TimeoutError as late:
                raise DeadlinePassed(f"QMP: {awaited} did not come in time") from late
            except OSError as error:
                raise QmpError(f"QMP: waiting for {awaited}: {error}") from error
            if not chunk:
                raise QmpError(f"QMP: QEMU closed the connection before {awaited}")
            self._received += chunk
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        return _parsed(bytes(line))


def _left(deadline: float, awaited: str) -> float:
    """Seconds until the deadline; never 0, which means "do not wait" to a socket."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed(f"QMP: {awaited} did not come in time")
    return left


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise QmpError(f"QMP: not JSON: {line[:80]!r}") from error
    if not isinstance(message, dict):
        raise QmpError(f"QMP: not a JSON object: {line[:80]!r}")
    return message
