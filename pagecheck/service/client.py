"""`pagecheck.Client`: the service's Python side."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.clock import Allowance
from pagecheck.errors import PagecheckError, PeerError, ResourceError, SourceError, UsageError
from pagecheck.model import Region
from pagecheck.native import Feed, _native
from pagecheck.report.report import Answer, BlockReport, Report, undecided_block
from pagecheck.service.protocol import (
    LAYOUTS,
    PROTOCOL,
    REPLY_BYTES,
    Connection,
    NotTaken,
    close_all,
    common_layout,
    parse,
)
from pagecheck.service.replies import (
    Attached,
    Checked,
    Members,
    RemoteBlock,
    UnreadableBlock,
    attached,
    checked,
    remote_block,
    told_error,
)
from pagecheck.shm import mounts
from pagecheck.shm.layout import segment_bytes
from pagecheck.shm.ram import RamSource, open_source
from pagecheck.shm.received import sealed_size
from pagecheck.shortage import explain, refused

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pagecheck.model import Format, Kind
    from pagecheck.report.bitmap_files import Output

__all__ = [
    "Attached",
    "Checked",
    "Client",
    "NoReply",
    "RemoteBlock",
    "RemoteChannel",
    "UnreadableBlock",
]

CONNECT_S: Final = 10.0
REPLY_S: Final = 60.0
QUEUE_S: Final = 0.01
CHECK_REPLY_S: Final = 30.0  # beyond the deadline of a check
UNDO_S: Final = 1.0
NEVER_NS: Final = 1 << 62
BATCH_PAGES: Final = 128
NAME_CHARS: Final = 128  # what a service takes
NUMBER_MAX: Final = (1 << 32) - 1  # of a channel

Progress = Callable[[int, int], None]


class NoReply(PeerError):
    """The service did not answer in time; the connection is good all the same."""


class Client:
    """A connection to a service; a context manager. What it attached goes when it goes.

    Several threads may use one client; their commands wait for each other.

    Attributes:
        greeting: what the service said of itself: version, protocol, layout, layouts,
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
                handed to no service, and no answer believed, of a user that is not named here:
                whoever made the socket could be anybody.

        Raises:
            PeerError: nobody listens there, or it is no service of this protocol.
            AccessError, LimitError: the service does not let us in.
        """
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._ids = 0
        self._late: dict[int, str] = {}  # commands whose reply is waited for no longer, by id
        self._broken = False
        self._pid = os.getpid()
        self._number = int.from_bytes(os.urandom(8), "little")  # no other connection has it
        limit = _allowance(timeout)
        connected = _connected(self._path, timeout)
        self._runs_as = _peer_uid(connected)
        self._trusted = {0, os.geteuid(), service_uid}
        self._connection = Connection(connected, REPLY_BYTES)
        try:
            message, fds = self._receive(limit)
            close_all(fds)
            if "error" in message:
                raise told_error(message["error"])
            self.greeting = self._greeted(message.get("pagecheck"))
        except BaseException:
            self.close()
            raise

    def _greeted(self, told: Any) -> dict[str, Any]:
        """The greeting, if it is one of this protocol."""
        if not isinstance(told, dict):
            raise PeerError(f"{self._path}: greets as something else than pagecheck")
        if told.get("protocol") != PROTOCOL:
            raise PeerError(
                f"{self._path}: speaks protocol {told.get('protocol')}, we speak {PROTOCOL}"
            )
        members = Members(told, f"{self._path}: the greeting")
        layout = members.integer("layout", 0, 1 << 32, 0)
        return {
            **told,
            "version": members.text("version", "of no version"),
            "capabilities": list(members.texts("capabilities")),
            "layouts": list(members.integers("layouts")) or [layout],
        }

    def _require_trusted(self) -> None:
        if self._runs_as not in self._trusted:
            raise PeerError(
                f"{self._path}: the service there runs as user {self._runs_as}, neither as root "
                f"nor as user {os.geteuid()}; --via-uid {self._runs_as} (service_uid in Python) "
                "trusts it with guest RAM"
            )

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
                opened is given back.
            PeerError: it hung up; connect again.
        """
        limit = _allowance(timeout)
        self.require_here()
        with self._lock:
            if self._broken:
                raise PeerError(f"{self._path}: the connection is closed; connect again")
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
        if "error" in message:
            close_all(received)
            raise told_error(message["error"])
        members = message.get("return")
        if not isinstance(members, dict):
            close_all(received)
            raise PeerError(f"{self._path}: the answer to {command}: is no object")
        return members, received

    def _send(self, request: dict[str, Any], fds: Sequence[int], limit: Allowance) -> None:
        """Raises NoReply where nothing was sent, since the service reads nothing; ResourceError
        where nothing was sent, for a shortage of ours."""
        try:
            self._connection.send(request, tuple(fds), limit.end_ns())
        except NotTaken as error:
            if self._connection.is_mid_line:
                raise PeerError(f"{self._path}: {error}; connect again") from error
            raise NoReply(f"{self._path}: the service does not read what it is asked") from error
        except PeerError as error:
            raise PeerError(f"{self._path}: {error}; connect again") from error
        except OSError as error:
            raise refused(f"{self._path}: cannot send", error) from error

    def _reply(
        self, limit: Allowance, on_event: Callable[[dict[str, Any]], None] | None
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer to the newest request; those that come too late are dropped by their ids."""
        while True:
            message, received = self._receive(limit)
            number = message.get("id")
            if "event" not in message and (number == self._ids or _is_unasked(message)):
                return message, received
            close_all(received)
            if "event" in message:
                if on_event is not None and number == self._ids:
                    on_event(message.get("data", {}))
            elif type(number) is int and number in self._late:
                self._give_back(self._late.pop(number), message.get("return"))

    def _give_back(self, command: str, members: Any) -> None:
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
            self._send(request, (), _allowance(UNDO_S))

    def _receive(self, limit: Allowance) -> tuple[dict[str, Any], list[int]]:
        while True:
            try:
                line = self._connection.receive(limit.step_end_ns())
            except PeerError as error:
                raise PeerError(f"{self._path}: {error}; connect again") from error
            if line is not None:
                message = parse(line.text)
                return self._untaken(message, line.fds) if line.is_short else (message, line.fds)
            if limit.is_used_up():
                raise NoReply(f"{self._path}: the service did not answer in time")

    def _untaken(self, message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        """An answer whose descriptors this process had no room for, as an error of ours."""
        close_all(fds)
        members = message.get("return")
        if isinstance(members, dict) and "segment_bytes" in members:
            self._give_back("open-channel", members)
        why = explain(OSError(errno.EMFILE, ""))
        error = {"class": "ResourceError", "desc": f"the answer could not be taken: {why}"}
        return {"error": error, "id": message.get("id")}, []

    def _require(self, capability: str) -> None:
        if capability not in self.greeting.get("capabilities", ()):
            raise PeerError(f"{self._path}: the service is too old for {capability}; update it")

    def attach(
        self,
        source: str | os.PathLike[str] | int,
        *,
        name: str | None = None,
        page_size: int = 4096,
        offset: int = 0,
        length: int | None = None,
        regions: Iterable[Region] = (),
        holes: str = "trust",
        access: str = "auto",
        trust_path: bool = False,
        format: Format = "auto",
    ) -> Attached:
        """Makes guest RAM known to the service.

        Args:
            source: a descriptor of a memfd or of a file on tmpfs or hugetlbfs, which stays the
                caller's; or a path, `shm:/name`, `pid:PID[:NAME]` or `qmp:SOCKET`. A file on tmpfs
                is opened here and passed on; everything else the service opens, which it does for
                root and its own user only.
            regions: where its parts lie in guest-physical memory.
            access: `read` for a single pass, see `Coordinator.attach`.
            trust_path: you vouch for the paths that QEMU tells, see `pagecheck.scan`.
            format: of a named file: `auto` refuses one that is certainly no raw RAM, `raw` takes
                any. A descriptor is taken for RAM.

        Returns:
            One block; as many as can be looked at for `pid:` and `qmp:`.

        Raises:
            SourceError, UsageError, LimitError, AccessError: it is not taken; the text says why. A
                path, socket or process that the service sees as another one is not.
        """
        arguments: dict[str, Any] = {"page_size": page_size, "holes": holes, "access": access}
        arguments |= {} if name is None else {"name": name}
        arguments |= {} if not offset else {"offset": offset}
        arguments |= {} if length is None else {"size": length}
        given = [region._asdict() for region in regions]
        arguments |= {"regions": given} if given else {}
        arguments |= {"trust_path": True} if trust_path else {}
        with contextlib.ExitStack() as stack:
            fds, notes = self._passed_on(stack, source, arguments, format)
            self._require_trusted()
            reply, received = self.execute("attach", arguments, fds)
            close_all(received)
        found = attached(reply, page_size)
        if not arguments.get("source", "").startswith(("pid:", "qmp:")):
            _require_same(found, offset, length)
        return Attached(map(self._own, found), found.unreadable, (*notes, *found.notes))

    def _passed_on(
        self, stack: contextlib.ExitStack, source: Any, arguments: dict[str, Any], format: Format
    ) -> tuple[list[int], tuple[str, ...]]:
        """Says in the arguments what the service is to open.

        Returns:
            The descriptors that it is given instead, and notes on them.
        """
        if isinstance(source, int):
            return [source], ()
        text = os.fspath(source)
        if text.startswith(("pid:", "qmp:")):
            path = os.path.abspath(text.removeprefix("qmp:"))
            by_process = text.startswith("pid:")
            fd = _held("/proc/self/ns/pid" if by_process else path, text)
            stack.callback(os.close, fd)
            return self._named(arguments, text if by_process else f"qmp:{path}", os.fstat(fd)), ()
        if (kind := mounts.source_may_stall(text)) is not None:
            raise SourceError(f"{text}: the service opens nothing on such a file system ({kind})")
        ram: RamSource = stack.enter_context(open_source(text, format))
        arguments.setdefault("name", _sendable(ram.name))
        if ram.is_shared_memory:
            return [ram.fd], ram.notes
        if text.startswith("fd:"):
            raise SourceError(f"{text}: the service takes descriptors of shared memory only")
        if format != "auto" and "formats" in self.greeting["capabilities"]:
            arguments["format"] = format  # a service without them takes any file
        return self._named(arguments, os.path.abspath(text), os.fstat(ram.fd)), ()

    def _named(self, arguments: dict[str, Any], text: str, st: os.stat_result) -> list[int]:
        """A name means what it means to us: the service compares what it sees under it."""
        if "expect" not in self.greeting["capabilities"]:
            raise PeerError(
                f"{self._path}: this service cannot prove that {text} is the same there as here; "
                "start one of this version"
            )
        arguments["source"] = text
        arguments["expect"] = {"device": st.st_dev, "inode": st.st_ino}
        return []

    def detach(self, block: RemoteBlock) -> None:
        """The service forgets the block."""
        self.require_own(block)
        self.execute("detach", {"block": block.number})

    def check(
        self,
        blocks: Sequence[RemoteBlock],
        *,
        ranges: Sequence[dict[str, int]] | None = None,
        bitmap: int | None = None,
        kind: str = "full",
        max_rate: int | None = None,
        deadline: float | None = None,
        pause: bool = False,
        max_pause: float | None = None,
        leave_stopped: bool = False,
        progress: Progress | None = None,
    ) -> Checked:
        """Decides pages of one block or more.

        Args:
            ranges: of the only block: `{"first": page, "count": pages}`, or
                `{"gpa": address, "size": bytes}` where its regions are known.
            bitmap: of the only block: a descriptor of shared memory whose bits select pages.
            deadline: seconds; pages not answered by then are undecided.
            pause: stop the VM meanwhile; for blocks attached as `qmp:`.
            leave_stopped: with `pause`: the VM stays stopped, if the check ends well.

        Raises:
            UsageError: a block is another connection's.
            PagecheckError: the subclass says whose fault it is.
        """
        for block in blocks:
            self.require_own(block)
        arguments: dict[str, Any] = {
            "blocks": [block.number for block in blocks],
            "kind": kind,
            "pause": pause,
            "bitmap": bitmap is not None,
            "progress": progress is not None,
        }
        optional = {
            "ranges": ranges,
            "max_rate": max_rate,
            "deadline": deadline,
            "max_pause": max_pause,
        }
        arguments |= {key: value for key, value in optional.items() if value is not None}
        if leave_stopped:
            self._require("leave-stopped")
            arguments["leave_stopped"] = True

        def on_event(event: dict[str, Any]) -> None:
            if progress is not None:
                told = Members(event, "the progress of check")
                progress(*(told.integer(name, 0, NEVER_NS) for name in ("done", "bytes")))

        reply, fds = self.execute(
            "check",
            arguments,
            [] if bitmap is None else [bitmap],
            timeout=None if deadline is None else deadline + CHECK_REPLY_S,
            on_event=on_event,
        )
        try:
            return checked(reply, fds, blocks, whole=ranges is None and bitmap is None)
        finally:
            close_all(fds)

    def scan(
        self,
        source: str | os.PathLike[str],
        *,
        page_size: int = 4096,
        offset: int = 0,
        length: int | None = None,
        kind: Kind = "full",
        holes: str = "trust",
        max_rate: int | None = None,
        deadline: float | None = None,
        pause: bool = False,
        max_pause: float | None = None,
        leave_stopped: bool = False,
        gpa: bool = False,
        trust_path: bool = False,
        format: Format = "auto",
        out: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """As `pagecheck.scan`, by the service's workers and engine.

        Returns:
            The report; `workers` is empty, since the service's workers have other clients, too.
        """
        started = clock.now_s()
        if trust_path and not os.fspath(source).startswith("qmp:"):
            raise UsageError(f"{os.fspath(source)}: --trust-path goes with qmp:SOCKET")
        blocks = self.attach(
            source,
            page_size=page_size,
            offset=offset,
            length=length,
            holes=holes,
            access="read",
            trust_path=trust_path,
            format=format,
        )
        output: Output | None = None
        with contextlib.ExitStack() as stack:
            try:
                if gpa and not all(block.regions for block in blocks):
                    text = os.fspath(source)
                    raise UsageError(
                        f"{text}: guest-physical addresses are known for qmp:SOCKET only"
                    )
                if out is not None:
                    from pagecheck.report.bitmap_files import Output

                    names = [each.ram.name for each in (*blocks, *blocks.unreadable)]
                    named = [os.fspath(source)]
                    output = stack.enter_context(Output(out, names, kind, named))
                ready = clock.now_s()
                found = self.check(
                    blocks,
                    kind=kind,
                    max_rate=max_rate,
                    deadline=deadline,
                    pause=pause,
                    max_pause=max_pause if pause else None,
                    leave_stopped=leave_stopped,
                    progress=progress,
                )
            finally:
                with contextlib.suppress(PagecheckError):
                    for block in blocks:
                        self.detach(block)
            hidden = [undecided_block(each.ram, each.regions) for each in blocks.unreadable]
            every = (*found.blocks, *hidden)
            report = Report(
                source=os.fspath(source),
                answer=found.answer,
                engine=found.raw["engine"],
                kernel=found.raw["kernel"],
                channels=found.raw["channels"],
                page_size=page_size,
                seconds=clock.now_s() - started,
                startup_seconds=ready - started,
                bytes_checked=found.raw["bytes_checked"],
                blocks=tuple(each if gpa else _without_regions(each) for each in every),
                notes=(*blocks.notes, *found.notes),
                pause=found.pause,
                why_live=found.raw.get("why_live"),
            )
            return report if output is None else output.write(report)

    def open_channel(
        self, *, slots: int = 16, slot_pages: int = 128, spin_us: int = 0
    ) -> RemoteChannel:
        """Opens a direct channel: batches go to a worker of its own through shared memory.

        Args:
            slots: batches that may be out at once.
            slot_pages: the most pages of a batch.
            spin_us: both sides look this long before they sleep.

        Raises:
            PeerError: the service lays channels out in no way that we know.
        """
        self._require_trusted()
        theirs = self.greeting["layouts"]
        if common_layout(LAYOUTS, theirs) is None:
            raise PeerError(
                f"{self._path}: pagecheck {self.greeting.get('version')} lays channels out as "
                f"{', '.join(map(str, theirs))}, we as {', '.join(map(str, LAYOUTS))}; bring the "
                "older of the two up to date"
            )
        arguments: dict[str, Any] = {"slots": slots, "slot_pages": slot_pages, "spin_us": spin_us}
        if "layouts" in self.greeting.get("capabilities", ()):
            arguments["layouts"] = list(LAYOUTS)
        reply, fds = self.execute("open-channel", arguments)
        try:
            number = Members(reply, "the answer to open-channel").integer("channel", 0, NUMBER_MAX)
            feed = _feed(fds, slots, slot_pages, spin_us)
        finally:
            close_all(fds)
        return RemoteChannel(self, number, min(slot_pages, BATCH_PAGES), feed)

    def blocks(self) -> list[RemoteBlock]:
        """The blocks that this client has attached."""
        reply, _fds = self.execute("query-blocks")
        given = Members(reply, "the answer to query-blocks")
        return [self._own(block) for block in given.each("blocks", remote_block)]

    def stats(self) -> dict[str, Any]:
        """What the service has counted; root and its own user are told of every client."""
        reply, _fds = self.execute("query-stats")
        return reply

    def _own(self, block: RemoteBlock) -> RemoteBlock:
        return block._replace(connection=self._number)

    def require_own(self, block: RemoteBlock) -> None:
        """Raises UsageError where another connection attached it: its number is another block's
        here, or will be."""
        if block.connection != self._number:
            raise UsageError(
                f"block {block.ram.name!r}: was attached by another connection; attach it by this "
                "one"
            )

    def is_here(self) -> bool:
        """Whether this process connected, and not the one that it was forked from."""
        return os.getpid() == self._pid

    def require_here(self) -> None:
        """Raises UsageError in a forked child: connection and channels are its parent's, and what
        both ask for would be answered to either."""
        if not self.is_here():
            raise UsageError(
                f"{self._path}: the connection is of process {self._pid}, which was forked; "
                "connect again in this one"
            )

    def is_hung_up(self) -> bool:
        """Whether the service, or this end, hung up; asks nothing of it."""
        return self._broken or self._connection.is_closed()

    def close(self) -> None:
        """Hangs up. May be called twice."""
        self._broken = True
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class RemoteChannel:
    """A direct channel of a client; for one thread at a time."""

    def __init__(self, client: Client, number: int, batch_pages: int, feed: Feed) -> None:
        self._client = client
        self._number = number
        self._batch_pages = batch_pages
        self._feed = feed
        self._closed = False

    def check(self, block: RemoteBlock, offsets: ArrayLike, *, deadline: float = REPLY_S) -> Answer:
        """Decides the pages at the given offsets; no socket and no service's thread is in between.

        Args:
            offsets: uint64[n] in bytes from the block's start, as in `Coordinator.check`.
            deadline: seconds from now; pages not answered by then are undecided.

        Raises:
            UsageError: an offset is misaligned or out of range, the block is another connection's,
                or the channel is closed.
            PeerError: the channel's worker is gone, or answers nonsense; open another channel.
        """
        import numpy as np

        self._client.require_here()
        self._client.require_own(block)
        if self._closed:
            raise UsageError(f"channel {self._number}: is closed; open another one")
        pages = np.array(offsets, np.uint64, ndmin=1)
        bad = _native.offsets_check(pages, block.ram.page_size, block.ram.size)
        if bad >= 0:
            raise UsageError(f"offsets[{bad}] = {int(pages[bad]):#x}: not a page of the block")
        zero, decided = np.zeros(len(pages), np.bool_), np.zeros(len(pages), np.bool_)
        partition = np.empty(len(pages), np.uint64)
        state = _native.PUMP_DONE
        if len(pages):
            try:
                self._feed.begin_offsets(block.number, self._batch_pages, pages, zero, decided)
            except ValueError as error:  # numbers that the service gave: of the block, of the ring
                raise PeerError(f"channel {self._number}: {error}") from error
            self._feed.more(0, len(pages))
            try:
                state = self._pump(_allowance(deadline))
            finally:
                self._feed.end()
        if state == _native.PUMP_GONE:
            raise PeerError(f"channel {self._number}: its worker is gone; open another one")
        if state == _native.PUMP_BROKEN:
            raise PeerError(
                f"channel {self._number}: refused, or answered nonsense; open another one"
            )
        notes = () if decided.all() else ("the deadline passed, or pages could not be read",)
        normal = _native.offsets_partition(pages, zero, partition)
        return Answer(zero, decided, partition, normal, notes)

    def _pump(self, limit: Allowance) -> int:
        """The last state of the feed; a service that was killed together with its workers is found
        by its socket alone."""
        while True:
            state = self._feed.pump(False, limit.step_end_ns())
            if state not in (_native.PUMP_TIMEOUT, _native.PUMP_INTERRUPTED):
                return state
            if limit.is_used_up():
                return state
            if self._client.is_hung_up():
                raise PeerError(
                    f"channel {self._number}: the service is gone; connect again and open another"
                )

    def close(self) -> None:
        """Ends the channel's worker. May be called twice; in a forked child it is left to the
        parent, and where the connection is gone the channel went with it."""
        closed, self._closed = self._closed, True
        self._feed.close()
        if not closed and self._client.is_here() and not self._client.is_hung_up():
            self._client.execute("close-channel", {"channel": self._number})


def _require_same(found: Attached, offset: int, length: int | None) -> None:
    """Raises PeerError where another part of the file was attached than we asked for."""
    ram = found[0].ram
    if len(found) > 1 or found.unreadable or ram.start != offset or length not in (None, ram.size):
        raise PeerError(
            f"the answer to attach: is of {len(found)} blocks, {ram.size:#x} bytes from "
            f"{ram.start:#x} on; {'all' if length is None else f'{length:#x}'} from {offset:#x} on "
            "were asked for"
        )


def _feed(fds: list[int], slots: int, slot_pages: int, spin_us: int) -> Feed:
    """Our end of a channel's memory, once it is seen to be what was asked for."""
    what = "the memory of the channel"
    if len(fds) != 1:
        raise PeerError(f"{what}: came as {len(fds)} descriptors")
    size, expected = sealed_size(fds[0], what), segment_bytes(slots, -(-slot_pages // 64) * 64)
    if size != expected:
        raise PeerError(f"{what}: has {size} bytes, {expected} were asked for")
    try:
        return Feed(fds[0], -1, spin_us * 1000)
    except (OSError, ValueError) as error:
        raise PeerError(f"{what}: {error}") from error


def _peer_uid(connected: socket.socket) -> int:
    """Whom the process that listens runs as. Source: unix(7), SO_PEERCRED."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", raw)[1]
    return uid


def _held(path: str, text: str) -> int:
    """What a path leads to, held so that its numbers are nobody else's meanwhile."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{text}: is not to be seen here: {reason}") from error


def _allowance(seconds: float | None) -> Allowance:
    """So many seconds in which we do not stand still; None: as long as it takes.

    Raises:
        UsageError: they are no number.
    """
    if seconds is not None and math.isnan(seconds):
        raise UsageError("nan: is no number of seconds")
    return Allowance(NEVER_NS if seconds is None else int(min(seconds, 1e9) * 1e9))


def _is_unasked(message: dict[str, Any]) -> bool:
    """An error of the connection rather than of one request."""
    return "error" in message and message.get("id") is None


def _sendable(name: str) -> str:
    """A file's name as a block's: printable, and not longer than the service takes."""
    return "".join(c if c.isprintable() else "?" for c in name)[:NAME_CHARS] or "ram"


def _connected(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    until = clock.now_s() + timeout
    try:
        while True:
            try:
                connection.connect(path)
                return connection
            except BlockingIOError:  # its queue is full, and a Unix socket does not wait for that
                if clock.now_s() > until:
                    raise
                clock.sleep_s(QUEUE_S)
    except (OSError, ValueError) as error:
        connection.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise PeerError(
            f"{path}: no service there: {reason}; start one with pagecheck serve --socket {path}"
        ) from error


def _without_regions(block: BlockReport) -> BlockReport:
    return BlockReport(
        block.block, block.counts, block.zero, block.normal, block.unchanged, block.files
    )
