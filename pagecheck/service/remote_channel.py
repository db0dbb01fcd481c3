"""A direct channel, the client's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pagecheck.clock import Allowance
from pagecheck.errors import PeerError, UsageError
from pagecheck.native import Feed, _native
from pagecheck.report.report import Answer
from pagecheck.service.protocol import LAYOUTS, close_all, common_layout, no_common_layout
from pagecheck.service.replies import Members, RemoteBlock
from pagecheck.service.requests import NUMBER_MAX, REPLY_S, Requests, allowance
from pagecheck.shm.layout import segment_bytes
from pagecheck.shm.received import sealed_size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BATCH_PAGES: Final = 128


class RemoteChannel:
    """A direct channel of a client; for one thread at a time."""

    def __init__(self, requests: Requests, number: int, batch_pages: int, feed: Feed) -> None:
        self._requests = requests
        self._number = number
        self._batch_pages = batch_pages
        self._feed = feed
        self._closed = False

    def check(self, block: RemoteBlock, offsets: ArrayLike, *, deadline: float = REPLY_S) -> Answer:
        """Decides the pages at the given offsets, past the socket and the service's threads.

        Args:
            offsets: uint64[n] in bytes from the block's start, as in `Coordinator.check`.
            deadline: seconds from now; pages not answered by then are undecided.

        Raises:
            UsageError: an offset is misaligned or out of range, the block is another connection's,
                or the channel is closed.
            PeerError: the channel's worker is gone, or its answer is invalid; open another channel.
        """
        import numpy as np

        self._requests.require_same_process()
        self._requests.require_own(block)
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
                state = self._pump(allowance(deadline))
            finally:
                self._feed.end()
        if state == _native.PUMP_GONE:
            raise PeerError(f"channel {self._number}: its worker is gone; open another one")
        if state == _native.PUMP_BROKEN:
            raise PeerError(
                f"channel {self._number}: it refused, or its answer is invalid; open another one"
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
            if self._requests.is_hung_up():
                raise PeerError(
                    f"channel {self._number}: the service is gone; connect again and open another"
                )

    def close(self) -> None:
        """Ends the channel's worker. May be called twice; in a forked child it is left to the
        parent; where the connection is closed the channel is closed too."""
        closed, self._closed = self._closed, True
        self._feed.close()
        if not closed and self._requests.is_same_process() and not self._requests.is_hung_up():
            self._requests.execute("close-channel", {"channel": self._number})


def open_channel(requests: Requests, slots: int, slot_pages: int, spin_us: int) -> RemoteChannel:
    """Opens a direct channel; as `Client.open_channel`."""
    requests.require_trusted()
    theirs = requests.greeting["layouts"]
    if common_layout(LAYOUTS, theirs) is None:
        version = requests.greeting["version"]
        raise PeerError(f"{requests.path}: {no_common_layout(version, theirs, 'we', LAYOUTS)}")
    arguments: dict[str, Any] = {"slots": slots, "slot_pages": slot_pages, "spin_us": spin_us}
    if "layouts" in requests.greeting.get("capabilities", ()):
        arguments["layouts"] = list(LAYOUTS)
    reply, fds = requests.execute("open-channel", arguments)
    try:
        number = Members(reply, "the answer to open-channel").integer("channel", 0, NUMBER_MAX)
        feed = _feed(fds, slots, slot_pages, spin_us)
    finally:
        close_all(fds)
    return RemoteChannel(requests, number, min(slot_pages, BATCH_PAGES), feed)


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
