"""The service's protocol: JSON lines on a Unix stream socket, descriptors beside them, in QMP's
manner. Both ends use this file; `service/schema.json` documents every message.

Descriptors travel with the bytes of their line. One call of `sendmsg` is one line, and the kernel
ends a read behind bytes that descriptors came with, so they belong to the last line that has begun
by then.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pagecheck import clock
from pagecheck.clock import Allowance, Elapsed
from pagecheck.errors import LimitError, PeerError
from pagecheck.model import VM_KINDS
from pagecheck.native import _native

PROTOCOL: Final = 1
LAYOUTS: Final = (_native.LAYOUT_VERSION,)  # of a channel's memory; each that is supported here
LINE_BYTES: Final = 1 << 18  # of a request
REPLY_BYTES: Final = 1 << 26
FDS_PER_LINE: Final = 8
HALF_LINE_NS: Final = 2_000_000_000
CAPABILITIES: Final = (
    *(f"attach-{kind}" for kind in VM_KINDS),
    *("bitmap", "direct-channels", "expect", "formats", "gpa", "layouts", "leave-stopped"),
    *("pause", "punch", "ranges", "save", "sources", "swapped", "trust-path"),
)

RECEIVE_STEP_NS: Final = 500_000_000  # a receiver wakes up at least this often

_RECEIVE_BYTES: Final = 1 << 16
_SENDER_BYTES: Final = struct.calcsize("3i")  # struct ucred


# The host is short of what a message needs. Source: unix_stream_sendmsg() in net/unix/af_unix.c.
_SHORTAGES: Final = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)


def common_layout(ours: Iterable[int], theirs: Iterable[int]) -> int | None:
    """The highest version of a channel's memory that both sides support, or None."""
    return max(set(ours) & set(theirs), default=None)


def no_common_layout(
    speaker: str, spoken: Iterable[int], listener: str, known: Iterable[int]
) -> str:
    """The message on two versions that share no layout of a channel's memory."""
    return (
        f"pagecheck {speaker} lays channels out as {_listed(spoken)}, {listener} as "
        f"{_listed(known)}; bring the older of the two up to date"
    )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


class NotReceived(PeerError):
    """The other side does not read what is sent."""


class Line(NamedTuple):
    """One message as it came.

    Attributes:
        fds: the descriptors that came with it, which the receiver closes.
        is_short: more came with it than this process had free descriptors for.
        sender: the process that sent all of it, as the kernel says; 0 where that is not known, or
            where several did.
    """

    text: bytes
    fds: list[int]
    is_short: bool = False
    sender: int = 0


class Connection:
    """One end of a connected stream socket. One thread receives and one sends at a time."""

    def __init__(
        self, connected: socket.socket, line_bytes: int = LINE_BYTES, *, senders: bool = False
    ) -> None:
        """Takes the socket over.

        Args:
            line_bytes: longer lines are refused.
            senders: have the kernel say which process sent each line.
        """
        self._line_bytes = line_bytes
        self._socket = connected
        self._socket.setblocking(False)
        # Room for as many descriptors as may come, and for no more. Source: cmsg(3), unix(7).
        self._room = socket.CMSG_LEN(FDS_PER_LINE * array.array("i").itemsize)
        if senders:
            self._room += socket.CMSG_SPACE(_SENDER_BYTES)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sender = 0  # of the line that has begun, and of those behind it in the same read
        self._next_sender = 0
        self._received = bytearray()
        self._searched = 0  # bytes of it in which no line ends
        self._taken = 0  # bytes of the lines that were returned
        self._fds: dict[int, list[int]] = {}  # by where in the stream their line begins
        self._fds_since = Elapsed(RECEIVE_STEP_NS)
        self.is_mid_line = False  # a line was sent in part, and no other one can follow
        self._short: set[int] = set()  # lines whose descriptors could not be taken

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...], deadline_ns: int) -> None:
        """Sends one message.

        Args:
            fds: descriptors that the other side gets copies of.
            deadline_ns: absolute; a peer that has not received all of it by then is abandoned. Time
                in which we did not run does not count.

        Raises:
            PeerError: the other side is gone; `NotReceived`: it does not read.
            OSError: this host is short of something; nothing was sent.
        """
        limit = Allowance(deadline_ns - clock.now_ns())
        rights: list[tuple[int, int, array.array[int]]] = []
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        rest = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        begun = False
        while rest:
            try:
                sent = self._socket.sendmsg([rest], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                ready = self._wait(select.POLLOUT, limit.step_end_ns())
                if not ready and limit.is_used_up():
                    raise NotReceived("the other side does not read what is sent") from None
                continue
            except OSError as error:
                if error.errno in _SHORTAGES and not begun:
                    raise
                raise _hung_up(error) from error
            begun = True
            rest, rights = rest[sent:], []
            self.is_mid_line = len(rest) > 0

    def receive(self, deadline_ns: int) -> Line | None:
        """Waits for one line until the absolute CLOCK_MONOTONIC time.

        Returns:
            None when the time passed.

        Raises:
            PeerError: the other side hung up.
            LimitError: the line is too long, came with too many descriptors, or does not end
                although some came with it: they are not kept for long, since one may be the
                other end of this socket, which would then never hang up.
        """
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            self._require_short(len(self._received))
            if self._fds and self._fds_since.sample() > HALF_LINE_NS:
                raise LimitError("descriptors came with a line that does not end")
            if not self._wait(select.POLLIN, deadline_ns):
                return None
            self._read()
        self._require_short(end)
        text = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        fds = self._fds.pop(self._taken, [])
        is_short = self._taken in self._short
        self._short.discard(self._taken)
        self._taken += end + 1
        sender, self._sender = self._sender, self._next_sender
        return Line(text, fds, is_short, sender)

    def _require_short(self, line_bytes: int) -> None:
        if line_bytes > self._line_bytes:
            raise LimitError(f"line of more than {self._line_bytes} bytes")

    def _read(self) -> None:
        try:
            data, beside, flags, _address = self._socket.recvmsg(
                _RECEIVE_BYTES, self._room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            raise _hung_up(error) from error
        fds, sender = _taken_apart(beside)
        # Nothing is read behind a whole line, and one read is of one sender.
        self._sender = sender if not self._received or sender == self._sender else 0
        self._next_sender = sender
        self._received += data
        if fds or flags & socket.MSG_CTRUNC:
            self._note(fds, is_cut=bool(flags & socket.MSG_CTRUNC))
        if not data:
            raise _hung_up()

    def _note(self, fds: list[int], *, is_cut: bool) -> None:
        """Descriptors belong to the last line that has begun. The kernel cut them off where there
        was no more room, here or in our table of descriptors."""
        last = self._received.rfind(b"\n", 0, max(len(self._received) - 1, 0))
        begun = self._taken + last + 1
        if fds:
            self._fds.setdefault(begun, []).extend(fds)
            self._fds_since.restart()
        if is_cut and len(fds) < FDS_PER_LINE:
            self._short.add(begun)
        elif is_cut or len(self._fds.get(begun, ())) > FDS_PER_LINE:
            raise LimitError(f"more than {FDS_PER_LINE} descriptors with one line")

    def is_closed(self) -> bool:
        """Whether the other side hung up, as far as that can be seen without reading."""
        return clock.wait_ready(self._socket.fileno(), 0, select.POLLRDHUP) != 0

    def _wait(self, events: int, deadline_ns: int) -> bool:
        return clock.wait_ready(self._socket.fileno(), deadline_ns, events) != 0

    def _drop_fds(self) -> None:
        for fds in self._fds.values():
            close_all(fds)
        self._fds = {}

    def hang_up(self) -> None:
        """Ends every wait of another thread for this socket; `close` follows."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hangs up and closes descriptors that nobody received."""
        self._drop_fds()
        self._socket.close()


def _taken_apart(beside: list[tuple[int, int, bytes]]) -> tuple[list[int], int]:
    """The descriptors that came beside some bytes, and the process that sent them or 0."""
    fds = array.array("i")
    sender = 0
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender = struct.unpack("3i", data)[0]
    return list(fds), sender


def _hung_up(error: OSError | None = None) -> PeerError:
    return PeerError(f"the other side hung up{f': {error.strerror}' if error else ''}")


def close_all(fds: list[int]) -> None:
    """Closes descriptors that were received."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def parse(text: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        PeerError: it is not one.
    """
    try:
        message = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"not JSON: {printable(text)}") from error
    if not isinstance(message, dict):
        raise PeerError(f"not a JSON object: {printable(text)}")
    return message


def _not_json(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def printable(text: bytes) -> str:
    """The beginning of what a peer sent, for a message."""
    return repr(text[:80])[1:] + ("..." if len(text) > 80 else "")
