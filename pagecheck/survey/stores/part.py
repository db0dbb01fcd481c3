"""A range of an object on its way into memory, and what its answer has to prove.

Facts: a server may ignore a range, or a condition; a connection may end before the body does.
Danger: bytes of another place, or of another version of the object, in a row that looks right.
Decision: an answer has to say itself that it is the range that was asked for, of an object of the
size and the version that was listed; every byte is counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pagecheck.survey.stores.troubles import Broken, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

TAG: Final = "etag:"
CHANGED: Final = "was changed since it was listed"

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


class Part:
    """A range of an object on its way into memory.

    Attributes:
        name: the object, as its store's library calls it.
        identity: what it was when it was listed.
        size: bytes of the object.
        start: where the range begins.
        got: bytes that have arrived, from the beginning.
        is_ended: whether nobody wants it any more.
    """

    def __init__(self, name: str, identity: str, size: int, start: int, view: memoryview) -> None:
        """A range as long as `view`, which its bytes go to."""
        self.name = name
        self.identity = identity
        self.size = size
        self.start = start
        self.got = 0
        self.is_ended: Callable[[], bool] = lambda: False
        self.view = view

    @property
    def first(self) -> int:
        """Offset in the object of the next byte."""
        return self.start + self.got

    @property
    def end(self) -> int:
        """Offset in the object behind the last one."""
        return self.start + len(self.view)

    @property
    def left(self) -> int:
        """Bytes that are yet to come."""
        return len(self.view) - self.got

    @property
    def range(self) -> str:
        """What is left, as HTTP's header Range has it."""
        return f"bytes={self.first}-{self.end - 1}"

    @property
    def tag(self) -> str | None:
        """The ETag for a condition; None where there is none that stands for the same bytes."""
        tag = self.identity.removeprefix(TAG)
        return tag if tag != self.identity and not tag.startswith("W/") else None

    def take(self, chunk: bytes) -> None:
        """Puts bytes where they belong.

        Raises:
            Broken: there are more than were asked for, or nobody wants them any more.
        """
        self._require_wanted()
        if len(chunk) > self.left:
            raise Broken(f"{len(chunk) - self.left} bytes more came than were asked for")
        self.view[self.got : self.got + len(chunk)] = chunk
        self.got += len(chunk)

    def take_from(self, stream: Any, most: int) -> None:
        """Has a stream write its next bytes where they belong.

        Args:
            stream: has readinto.
            most: bytes.

        Raises:
            Broken: there are none, or nobody wants them any more.
        """
        self._require_wanted()
        with self.view[self.got : self.got + min(most, self.left)] as view:
            count = int(stream.readinto(view))
        if count <= 0:
            self.require_all()
        self.got += count

    def _require_wanted(self) -> None:
        if self.is_ended():
            raise Broken("nobody wants it any more")

    def require_all(self) -> None:
        """Raises Broken where the body ended too early."""
        if self.left:
            raise Broken(f"the body ended {self.left} bytes too early")

    def require_range(self, status: int, content_range: str | None, length: object) -> None:
        """Checks that an answer is the range that was asked for.

        Raises:
            Broken: it is another one.
            Refused: the store does not serve ranges, or the object has another size by now.
        """
        if (
            status == 200
            and self.first == 0
            and self.end == self.size
            and str(length) == str(self.size)
        ):
            return  # some servers answer so where the range is all there is
        if status == 200:
            raise Refused(
                "its server does not serve ranges of an object (it answered 200, not 206)"
            )
        found = _CONTENT_RANGE.fullmatch(content_range or "")
        if found is None:
            raise Refused(f"the store answered {status} without the range that it sends")
        if found[3] not in ("*", str(self.size)):
            raise Refused(f"was changed: it had {self.size} bytes, and has {found[3]}")
        if str(length).isdigit() and int(str(length)) > self.left:
            raise Broken(f"{self.left} bytes were asked for, and {length} are sent")
        if (int(found[1]), int(found[2])) != (self.first, self.end - 1):
            raise Broken(f"{self.range} was asked for, and bytes {found[1]}-{found[2]} came")

    def require_identity(self, identity: str) -> None:
        """Raises Refused where it is not the version that was listed; an empty one says nothing."""
        if identity and self.identity and identity != self.identity:
            raise Refused(CHANGED)
