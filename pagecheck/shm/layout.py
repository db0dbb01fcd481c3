"""What a worker shares: every word, its type and its one writer.

`native/core/pc_layout.h` is the same table for the C side; a test compares the two. A channel's
segment is one header, then `slot_count` slots of `slot_bytes`. Each slot is a head (below), then
`offsets` (uint64[slot_pages], written by who submits), then `zero` and `decided`
(uint64[slot_pages / 64] each, written by the worker). Who submits is the coordinator, or the VMM
that a direct channel was opened for. The control segment is between the worker and the process
that looks after it, and no VMM sees it.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, NamedTuple

from pagecheck.native import _native

Writer = Literal["once", "submitter", "supervisor", "worker", "added to"]

MAGIC: Final = 0x474E495243504350
HEADER_BYTES: Final = 256
STATS_OFFSET: Final = 128
FAILURE_OFFSET: Final = 1024
ASLEEP: Final = 1 << 32


class Field(NamedTuple):
    """One shared word.

    Attributes:
        offset: bytes from the start of the header or slot.
        type: a `struct` code, native byte order.
        writer: the only process that ever writes it; `once`: its creator, before anybody else has
            it; `added to`: whoever wants the worker to look.
    """

    offset: int
    type: str
    writer: Writer
    meaning: str

    @property
    def size(self) -> int:
        """Bytes."""
        return struct.calcsize("=" + self.type)

    def read(self, memory: memoryview | bytes) -> int:
        """Its value in a copy or view that starts at the header or slot."""
        value: int = struct.unpack_from("=" + self.type, memory, self.offset)[0]
        return value


HEADER: Final = {
    "magic": Field(0, "Q", "once", "PCPCRING"),
    "layout_version": Field(8, "I", "once", "3"),
    "header_bytes": Field(12, "I", "once", "where the slots begin"),
    "segment_bytes": Field(16, "Q", "once", "size of the whole segment"),
    "generation": Field(24, "Q", "once", "counts the channel's replacements"),
    "slot_count": Field(32, "I", "once", "slots in the ring"),
    "slot_pages": Field(36, "I", "once", "the most pages of a batch"),
    "slot_bytes": Field(40, "Q", "once", "distance between slots"),
    "wake_at": Field(64, "Q", "submitter", "the sequence that it sleeps for; 2^64 - 1: awake"),
    "asleep": Field(128, "Q", "worker", "1 << 32 | the `submit` that it sleeps on; 0: it is awake"),
    "done": Field(136, "I", "worker", "futex: raised when the answer of wake_at is there"),
    "submit": Field(192, "I", "added to", "futex: raised when the worker is to look"),
    "gone": Field(196, "I", "supervisor", "1: nobody answers any more"),
}

CONTROL: Final = {
    "attention": Field(0, "Q", "supervisor", "raised when a message waits on the socket"),
    "progress": Field(64, "Q", "worker", "rises with every piece of work"),
    "deciding": Field(72, "Q", "worker", "sequence of the batch in hand, 0 for none"),
    "looks": Field(80, "Q", "worker", "rises whenever it begins to look for work, idle or not"),
    "stats": Field(STATS_OFFSET, "112Q", "worker", "the words of STATS"),
    "failure": Field(FAILURE_OFFSET, "16Q", "worker", "the words of FAILURE"),
}

# The first descriptor that came back with a failure, or never, and its completion record.
FAILURE: Final = {
    "kept": Field(0, "Q", "worker", "1: there is one; stored last"),
    "descriptor": Field(8, "64B", "worker", "as it was submitted"),
    "record": Field(72, "32B", "worker", "as it was found"),
}

# What the worker counts. Every word rises only, but for queue_state.
STATS: Final = {
    "descriptors": Field(0, "Q", "worker", "COMPVAL descriptors that a queue took"),
    "batches": Field(8, "Q", "worker", "batch descriptors that a queue took"),
    "pages_device": Field(16, "Q", "worker", "pages decided by a completion record"),
    "pages_sampled": Field(24, "Q", "worker", "normal pages found before submission"),
    "pages_completed": Field(32, "Q", "worker", "meant for the device, decided by the CPU"),
    "pages_cpu": Field(40, "Q", "worker", "never meant for the device"),
    "page_faults": Field(48, "Q", "worker", "records that reported a page fault"),
    "refined": Field(56, "Q", "worker", "runs looked at again after a mismatch"),
    "retries": Field(64, "Q", "worker", "submissions not taken at once"),
    "queue_full": Field(72, "Q", "worker", "submissions given up: the queue stayed full"),
    "timeouts": Field(80, "Q", "worker", "submissions whose record did not come"),
    "opens": Field(88, "Q", "worker", "times that a queue was opened"),
    "submit_ns": Field(96, "Q", "worker", "wall clock spent submitting"),
    "wait_ns": Field(104, "Q", "worker", "wall clock spent waiting for records"),
    "cpu_ns": Field(112, "Q", "worker", "CPU time of the worker's thread, when it last rested"),
    "queue_state": Field(120, "Q", "worker", "0 none, 1 up, 2 draining; << 8: why it ended"),
    "statuses": Field(128, "64Q", "worker", "records by status code"),
    "answered": Field(640, "Q", "worker", "batches answered and not refused"),
    "refused": Field(648, "Q", "worker", "batches refused"),
    "zero": Field(656, "Q", "worker", "pages answered as zero"),
    "normal": Field(664, "Q", "worker", "pages answered as normal"),
    "undecided": Field(672, "Q", "worker", "pages left undecided"),
    "holes": Field(680, "Q", "worker", "pages zero because the file has a hole there"),
    "bytes": Field(688, "Q", "worker", "bytes of the decided pages, holes included"),
    "latency_ns": Field(696, "Q", "worker", "wall clock from begin to answer, all batches"),
    "latencies": Field(704, "24Q", "worker", "batches by it: bucket i is below 1024 << i ns"),
}
STATS_WORDS: Final = 112
STATUSES: Final = 16  # the word where the counts by status code begin
QUEUE_STATE: Final = 15  # the word's index

SLOT: Final = {
    "request": Field(0, "Q", "submitter", "sequence << 8 | 1 (submitted); stored last"),
    "kind": Field(8, "I", "submitter", "1 a range, 2 offsets"),
    "block": Field(12, "I", "submitter", "id that the RAM block was attached under"),
    "first_page": Field(16, "Q", "submitter", "first page of a range"),
    "count": Field(24, "I", "submitter", "pages of the batch"),
    "answer": Field(64, "Q", "worker", "sequence << 8 | 1 (done) or 2 (refused); stored last"),
    "refusal": Field(72, "I", "worker", "why the batch was refused"),
}

SLOT_HEAD_BYTES: Final = 128


def segment_bytes(slots: int, slot_pages: int) -> int:
    """Size in bytes of a segment with that many slots (slot_pages is a multiple of 64)."""
    return _native.segment_bytes(slots, slot_pages)
