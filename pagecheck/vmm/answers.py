"""What a VMM answered, checked member by member: each of the right type and in range.

Whoever listens on the socket may send anything, so nothing of it is trusted. A member that is not
what it must be is the peer's fault; the message names peer, command and place.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pagecheck.errors import PeerError
from pagecheck.vmm.kinds import QEMU

SIZE_MAX: Final = (1 << 63) - 1
# Whatever else QEMU's query-migrate says, a migration is going on.
NO_MIGRATION: Final = frozenset({"none", "completed", "failed", "cancelled"})
_SHOWN_CHARS: Final = 60


class Answer:
    """A JSON value of an answer, and its place in it."""

    def __init__(
        self,
        peer: str,
        command: str,
        value: Any,
        socket: str = QEMU.socket,
        at: str = "",
    ) -> None:
        """Takes it as it is.

        Args:
            peer: who answered, as in messages: `qmp:/path`.
            command: what was asked.
            socket: which socket is the right one, for messages.
            at: the value's place in the answer, such as `[0].size`.
        """
        self._peer = peer
        self._command = command
        self._value = value
        self._socket = socket
        self._at = at

    def items(self) -> list[Answer]:
        """The elements of a list."""
        if not isinstance(self._value, list):
            raise self.wrong("a list")
        return [self._inner(each, f"[{index}]") for index, each in enumerate(self._value)]

    def member(self, name: str) -> Answer:
        """A member that an object must have."""
        found = self.optional(name)
        if found is None:
            raise self.wrong(f"an object with {name!r}")
        return found

    def optional(self, name: str) -> Answer | None:
        """A member of an object, None where there is none."""
        if not isinstance(self._value, dict):
            raise self.wrong("an object")
        if name not in self._value:
            return None
        return self._inner(self._value[name], f".{name}")

    def is_null(self) -> bool:
        """Whether it is null."""
        return self._value is None

    def text(self) -> str:
        """A string."""
        if not isinstance(self._value, str):
            raise self.wrong("a string")
        return self._value

    def size(self) -> int:
        """A number of bytes, 0 to 2^63 - 1."""
        if type(self._value) is not int or not 0 <= self._value <= SIZE_MAX:
            raise self.wrong("a number of bytes")
        return self._value

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self._value, bool):
            raise self.wrong("true or false")
        return self._value

    def is_same(self, other: Answer) -> bool:
        """Whether both are the same value."""
        return bool(self._value == other._value)

    def wrong(self, wanted: str) -> PeerError:
        """What to raise where the value is not what it must be.

        Args:
            wanted: what it must be.
        """
        shown = json.dumps(self._value)
        if len(shown) > _SHOWN_CHARS:
            shown = f"{shown[:_SHOWN_CHARS]}..."
        place = f", {self._at.removeprefix('.')}" if self._at else ""
        return PeerError(
            f"{self._peer}: the answer to {self._command}{place}: must be {wanted}, is {shown}; "
            f"give the path of {self._socket}"
        )

    def _inner(self, value: Any, at: str) -> Answer:
        return Answer(self._peer, self._command, value, self._socket, self._at + at)
