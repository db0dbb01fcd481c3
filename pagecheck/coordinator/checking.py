"""`Coordinator.check`: the pages that a caller names, answered in the caller's order."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from pagecheck.coordinator.block import Block
from pagecheck.coordinator.pool import Job, Pool
from pagecheck.errors import UsageError
from pagecheck.model import Answer
from pagecheck.native import Feed, _native

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BATCH_PAGES: Final = 128  # one multifd packet of 4 KiB pages
PIECE_BATCHES: Final = 4  # taken at once by a lane when several share a check


class _Pieces:
    """Cuts `total` positions into pieces for several threads."""

    def __init__(self, total: int, piece: int) -> None:
        self._total = total
        self._piece = piece
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int] | None:
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

    Args:
        pool: None for engine `none`.
    """
    pages = _as_offsets(offsets, block)
    zero = np.zeros(len(pages), np.uint8)
    notes: list[str] = []
    if pool is None:
        decided = np.ones(len(pages), np.uint8)
    else:
        decided = np.zeros(len(pages), np.uint8)
        if len(pages):
            notes = _decide(pool, block, pages, zero, decided, stop, deadline_ns)
    partition = np.empty_like(pages)
    normal = _native.offsets_partition(pages, zero, partition)
    return Answer(zero.view(np.bool_), decided.view(np.bool_), partition, normal, tuple(notes))


def _as_offsets(offsets: ArrayLike, block: Block) -> NDArray[np.uint64]:
    """A checked private copy: nobody can change it while it is worked on."""
    given = offsets if isinstance(offsets, np.ndarray) else np.asarray(offsets)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "ui"):
        raise UsageError(
            f"offsets: an array of shape {given.shape} and type {given.dtype}; "
            "needs one dimension of integers"
        )
    if given.dtype.kind == "i" and given.size and int(given.min()) < 0:
        index = int(np.argmax(given < 0))
        raise UsageError(f"offsets[{index}] = {int(given[index])}: is negative")
    pages = np.array(given, dtype=np.uint64, order="C")
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


def _decide(
    pool: Pool,
    block: Block,
    pages: NDArray[np.uint64],
    zero: NDArray[np.uint8],
    decided: NDArray[np.uint8],
    stop: threading.Event,
    deadline_ns: int,
) -> list[str]:
    total = len(pages)
    lanes = min(len(pool.channels), math.ceil(total / BATCH_PAGES / PIECE_BATCHES))
    work = _Pieces(total, total if lanes == 1 else BATCH_PAGES * PIECE_BATCHES)

    def begin(feed: Feed) -> None:
        feed.begin_offsets(block.id, BATCH_PAGES, pages, zero, decided)

    job = Job(block, begin, work.take, stop, deadline_ns, urgent=True)
    notes = [note for outcome in pool.run(job, lanes) for note in outcome.notes]
    notes += _forget_past_end(block, pages, zero, decided)
    if not notes and not decided.all():
        late = time.monotonic_ns() >= deadline_ns
        notes.append("the deadline passed" if late else "some pages could not be read")
    return notes


def _forget_past_end(
    block: Block,
    pages: NDArray[np.uint64],
    zero: NDArray[np.uint8],
    decided: NDArray[np.uint8],
) -> list[str]:
    """Bytes past the end of a file that was cut short look like zeros: not decided."""
    size = block.source.size
    inside = block.pages_inside(size) * block.ram.page_size
    if inside == block.ram.size:
        return []
    past = pages >= inside
    if not past.any():
        return []
    zero[past] = 0
    decided[past] = 0
    return [
        f"{block.source.text}: the file is only {size:#x} bytes now: pages of block "
        f"{block.ram.name} from offset {inside:#x} are undecided"
    ]
