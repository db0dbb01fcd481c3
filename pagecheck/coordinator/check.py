"""`Coordinator.check`: the pages that a caller names, answered in the caller's order."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pagecheck.coordinator.block import CHECK_PAGES, CHECK_PAGES_MAX, Block
from pagecheck.coordinator.channel import Channel, Outcome, Stop
from pagecheck.coordinator.pool import Job, Pool
from pagecheck.coordinator.scan import why_undecided
from pagecheck.coordinator.settings import closed, deadline_ns
from pagecheck.errors import UsageError
from pagecheck.native import Feed, _native
from pagecheck.report.report import Answer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_UINT64: Final = np.dtype(np.uint64)
_BOOL: Final = np.dtype(np.bool_)
_new: Final = tuple.__new__


class Pieces:
    """Cuts positions into pieces for several threads."""

    def __init__(self, total: int, piece: int) -> None:
        """`total` positions, at most `piece` at once."""
        self._total = total
        self._piece = piece
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int] | None:
        """The next (position, count), or None."""
        with self._lock:
            first = self._next
            count = min(self._piece, self._total - first)
            self._next += count
        return (first, count) if count > 0 else None


class Checker:
    """The checks of one coordinator."""

    def __init__(
        self, pool: Pool | None, stop: threading.Event, require_open: Callable[[], None]
    ) -> None:
        """Checks on the channels of a pool.

        Args:
            pool: None for engine `none`.
            stop: set when the coordinator is closed.
            require_open: raises UsageError after that, and in a forked child.
        """
        self._pool = pool
        self._stop = stop
        self._require_open = require_open

    def check(self, block: Block, offsets: ArrayLike, deadline: float) -> Answer:
        """Decides the pages at `offsets`; see `Coordinator.check`."""
        pool = self._pool
        answer = self._at_once(pool, block, offsets, deadline) if pool is not None else None
        if answer is not None:
            return answer
        self._require_open()
        block.require_checkable()
        block.begin_use()
        try:
            until_ns = deadline_ns(deadline)
            pages = _as_offsets(offsets, block)
            count = len(pages)
            if pool is None or count == 0:
                return Answer(np.zeros(count, _BOOL), np.ones(count, _BOOL), pages, count)
            answer = self._at_once(pool, block, pages, deadline)
            return answer or self._on_several(pool, block, pages, until_ns)
        finally:
            block.end_use()

    def _at_once(
        self, pool: Pool, block: Block, offsets: ArrayLike, deadline: float
    ) -> Answer | None:
        """Decides a packet of a migration on a channel that is idle.

        The worker is woken first: what can wait for that, such as the arrays of the answer, is made
        while it wakes up and works.

        Returns:
            None: no channel is idle or knows the block, this is a forked child, or the offsets are
            wrong, no plain uint64, none, or more than a few batches.
        """
        channel = pool.lease_now()
        if channel is None:
            return None
        count = 0
        try:
            submitted = channel.submit_check(block, offsets)
            if submitted:
                block.begin_use()
            count = submitted
        finally:
            if count == 0:
                channel.feed.end()
                pool.put_back(channel)
        if count == 0:
            return None
        try:
            return self._finish(pool, channel, block, count, deadline)
        finally:
            block.end_use()

    def _finish(
        self, pool: Pool, channel: Channel, block: Block, count: int, deadline: float
    ) -> Answer:
        """Waits for the answers to `Channel.submit_check` and releases the channel."""
        outcome = None
        try:
            # As np.empty, and Answer(...), with less of their code, which is not in the caches.
            partition = np.ndarray(count, _UINT64)
            zero = np.ndarray(count, _BOOL)
            decided = np.ndarray(count, _BOOL)
            normal = channel.finish_check(block, zero, decided, partition, deadline)
            if normal >= 0:
                return _new(Answer, (zero, decided, partition, normal, ()))
            until_ns = deadline_ns(deadline, -normal)
            outcome = channel.run(block, lambda _feed: None, lambda: None, self._stop, until_ns)
        except BaseException:  # an interrupt, or no memory
            outcome = Outcome()
            channel.feed.end()  # late answers reach nobody
            raise
        finally:
            pool.release(channel, outcome)
        pages = partition.copy()
        if outcome.shortage is not None:  # another channel may have what this one lacks
            return self._on_several(pool, block, pages, until_ns)
        return self._explained(block, pages, (zero, decided), outcome.notes, until_ns)

    def _on_several(
        self, pool: Pool, block: Block, pages: NDArray[np.uint64], until_ns: int
    ) -> Answer:
        """Shares a large check between channels, or waits for a channel."""
        zero = np.zeros(len(pages), _BOOL)
        decided = np.zeros(len(pages), _BOOL)
        threads = min(len(pool.channels), math.ceil(len(pages) / CHECK_PAGES_MAX))
        work = Pieces(len(pages), CHECK_PAGES_MAX)

        def begin(feed: Feed) -> None:
            feed.begin_offsets(block.id, CHECK_PAGES, pages, zero, decided)

        job = Job(block, begin, work.take, Stop(self._stop), until_ns, high_priority=True)
        notes = [note for outcome in pool.run(job, threads) for note in outcome.notes]
        return self._explained(block, pages, (zero, decided), notes, until_ns)

    def _explained(
        self,
        block: Block,
        pages: NDArray[np.uint64],
        bits: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        notes: list[str],
        until_ns: int,
    ) -> Answer:
        """The answer, with notes on what stayed undecided.

        Args:
            bits: zero and decided.

        Raises:
            UsageError: the coordinator was closed meanwhile.
        """
        zero, decided = bits
        notes = notes + _forget_past_end(block, pages, zero, decided)
        if (why := block.verify()) is not None:
            zero[:] = decided[:] = False
            notes.append(why)
        if not notes and not decided.all():
            if self._stop.is_set():
                raise closed()
            undecided = len(pages) - int(decided.sum())
            notes.append(why_undecided(undecided, until_ns, self._stop))
        partition = np.empty(len(pages), _UINT64)
        normal = _native.offsets_partition(pages, zero, partition)
        return Answer(zero, decided, partition, normal, tuple(notes))


def _as_offsets(offsets: ArrayLike, block: Block) -> NDArray[np.uint64]:
    """A checked private copy: nobody can change it while it is worked on."""
    try:
        given = offsets if isinstance(offsets, np.ndarray) else np.asarray(offsets)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"offsets: no array of integers: {error}") from error
    plain = given.dtype is _UINT64 and given.ndim == 1
    pages = given.copy() if plain else _convert(given)  # contiguous, whatever the strides were
    ram = block.ram
    bad = _native.offsets_check(pages, ram.page_size, ram.size)
    if bad >= 0:
        value = int(pages[bad])
        wrong = (
            f"outside block {ram.name} of {ram.size:#x} bytes"
            if value >= ram.size
            else f"not a multiple of the page size {ram.page_size}"
        )
        raise UsageError(f"offsets[{bad}] = {value:#x}: {wrong}")
    return pages


def _convert(given: NDArray[Any]) -> NDArray[np.uint64]:
    if given.ndim != 1 or (given.size and given.dtype.kind not in "ui"):
        raise UsageError(
            f"offsets: an array of shape {given.shape} and type {given.dtype}; "
            "needs one dimension of integers"
        )
    if given.dtype.kind == "i" and given.size and int(given.min()) < 0:
        index = int(np.argmax(given < 0))
        raise UsageError(f"offsets[{index}] = {int(given[index])}: is negative")
    return np.array(given, dtype=np.uint64)


def _forget_past_end(
    block: Block,
    pages: NDArray[np.uint64],
    zero: NDArray[np.bool_],
    decided: NDArray[np.bool_],
) -> list[str]:
    """Makes pages past the end of a file undecided; returns the notes."""
    size = block.source.size
    inside = block.pages_inside(size) * block.ram.page_size
    if inside == block.ram.size:
        return []
    past = pages >= inside
    if not past.any():
        return []
    zero[past] = False
    decided[past] = False
    return [block.past_end(size)]
