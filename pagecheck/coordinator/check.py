"""`Coordinator.check`: the pages that a caller names, answered in the caller's order."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pagecheck.coordinator.block import Block
from pagecheck.coordinator.channel import CHECK_PAGES, Outcome
from pagecheck.coordinator.pool import Job, Pool, Stop
from pagecheck.coordinator.scan import why_undecided
from pagecheck.coordinator.settings import closed
from pagecheck.errors import UsageError
from pagecheck.native import Feed, _native
from pagecheck.report.report import Answer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_UINT64: Final = np.dtype(np.uint64)
PIECE_BATCHES: Final = 4  # taken at once by a feeder thread when several share a check


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


def check(
    pool: Pool | None,
    block: Block,
    offsets: ArrayLike,
    stop: threading.Event,
    deadline_ns: int,
) -> Answer:
    """Decides the pages at `offsets`; see `Coordinator.check`.

    The way of a packet of a migration is the first one: one channel, one call of the C helper.

    Args:
        pool: None for engine `none`.
    """
    pages = _as_offsets(offsets, block)
    count = len(pages)
    partition = np.empty(count, np.uint64)
    if pool is None or count == 0:
        partition[:] = pages
        return Answer(np.zeros(count, np.bool_), np.ones(count, np.bool_), partition, count)
    zero = np.zeros(count, np.bool_)
    decided = np.zeros(count, np.bool_)
    notes: list[str] = []
    channel = pool.lease_now() if count <= CHECK_PAGES * PIECE_BATCHES else None
    if channel is not None:
        result: tuple[bool, int] | Outcome = Outcome()
        try:
            answer = (zero, decided, partition)
            result = channel.check(block, block.file_end, pages, answer, stop, deadline_ns)
        finally:
            pool.release(channel, result if type(result) is Outcome else None)
        if type(result) is tuple and result[0]:
            return Answer(zero, decided, partition, result[1])
        if type(result) is Outcome:
            notes = result.notes
            if result.shortage is not None:  # another channel may have what this one lacks
                zero[:] = decided[:] = False
                notes = _on_several(pool, block, pages, zero, decided, stop, deadline_ns)
    else:
        notes = _on_several(pool, block, pages, zero, decided, stop, deadline_ns)
    notes += _forget_past_end(block, pages, zero, decided)
    if not notes and not decided.all():
        if stop.is_set():
            raise closed()
        notes.append(why_undecided(count - int(decided.sum()), deadline_ns, stop))
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


def _on_several(
    pool: Pool,
    block: Block,
    pages: NDArray[np.uint64],
    zero: NDArray[np.bool_],
    decided: NDArray[np.bool_],
    stop: threading.Event,
    deadline_ns: int,
) -> list[str]:
    """Shares a large check between channels, or waits for a channel. Returns the notes."""
    threads = min(len(pool.channels), math.ceil(len(pages) / CHECK_PAGES / PIECE_BATCHES))
    work = Pieces(len(pages), CHECK_PAGES * PIECE_BATCHES)

    def begin(feed: Feed) -> None:
        feed.begin_offsets(block.id, CHECK_PAGES, pages, zero, decided)

    job = Job(block, begin, work.take, Stop(stop), deadline_ns, high_priority=True)
    return [note for outcome in pool.run(job, threads) for note in outcome.notes]


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
