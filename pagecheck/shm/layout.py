"""The layout of what a worker shares: the place of each word, by name.

The C headers define the words, their one writer and their meaning (`native/core/pc_layout.h`); the
extension provides offsets and sizes, docs/shm-layout.md lists them all. A channel's segment is
one header, then slots. Each slot is a head, then `offsets`, written by the submitter, then `zero`
and `decided`, written by the worker. The submitter is the coordinator, or the VMM that a direct
channel was opened for. The control segment is shared by the worker and the process that supervises
it; no VMM has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pagecheck.native import _native

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple


class Field(NamedTuple):
    """One shared word, or an array of them.

    Attributes:
        offset: bytes from the start of the part that it is in.
        size: bytes.
    """

    offset: int
    size: int

    def read(self, memory: memoryview | bytes) -> int:
        """Its value in a copy or view that starts where its part does; of one word only."""
        return int.from_bytes(memory[self.offset : self.offset + self.size], sys.byteorder)

    @property
    def words(self) -> slice:
        """Where it is among the part's 64-bit words."""
        return slice(self.offset // WORD_BYTES, (self.offset + self.size) // WORD_BYTES)


WORD_BYTES: Final = 8

_PARTS: Final = {
    part: {name: Field(*place) for name, place in words.items()}
    for part, words in _native.layout().items()
}
HEADER: Final = _PARTS["header"]
SLOT: Final = _PARTS["slot"]
CONTROL: Final = _PARTS["control"]
STATS: Final = _PARTS["stats"]  # the worker's counters; they only grow, except queue_state
FAILURE: Final = _PARTS["failure"]
SINK: Final = _PARTS["sink"]  # what the workers of a block and their coordinator share of it

STATS_WORDS: Final = CONTROL["stats"].size // WORD_BYTES
QUEUE_STATE: Final[int] = STATS["queue_state"].words.start


def statistic(words: Sequence[int], name: str) -> int:
    """One count among the words of `STATS`."""
    (count,) = words[STATS[name].words]
    return count


def statistic_array(words: Sequence[int], name: str) -> list[int]:
    """The counts of an array among the words of `STATS`."""
    return list(words[STATS[name].words])


def queue_state(word: int) -> tuple[int, int]:
    """The state of a worker's queue, one of QUEUE_NONE, QUEUE_UP, QUEUE_DRAINING, and why the last
    one ended, another QUEUE_*; from the word `queue_state`."""
    shift = _native.QUEUE_END_SHIFT
    return word & ((1 << shift) - 1), word >> shift


def segment_bytes(slots: int, slot_pages: int) -> int:
    """Size in bytes of a segment with that many slots (slot_pages is a multiple of 64)."""
    return _native.segment_bytes(slots, slot_pages)
