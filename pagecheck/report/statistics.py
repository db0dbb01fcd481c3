"""What workers count, as callers and reports get it."""

from __future__ import annotations

from collections.abc import Sequence

from pagecheck.shm.layout import STATS_WORDS, statistic, statistic_array

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple

# Completion record status codes. Source: DSA specification, table 5-6.
STATUS_NAMES: Final = {
    0x01: "success",
    0x02: "false_predicate",
    0x03: "page_fault",
    0x04: "page_request_refused",
    0x05: "batch_member_failed",
    0x06: "batch_list_fault",
    0x10: "unsupported_opcode",
    0x11: "invalid_flags",
    0x12: "reserved_not_zero",
    0x13: "transfer_size",
    0x14: "descriptor_count",
    0x15: "bad_field_value",
    0x16: "overlap",
    0x18: "list_misaligned",
    0x19: "interrupt_handle",
    0x1A: "record_fault",
    0x1B: "record_misaligned",
    0x1C: "misaligned",
    0x1D: "privilege",
    0x1E: "traffic_class",
    0x1F: "readback_fault",
    0x20: "hardware_error",
    0x21: "hardware_error_on_write",
    0x22: "translation_failed",
}


STATUS_MASK: Final = 0x3F  # bits 7 and 6 of the status byte are not part of the code


def status_name(code: int) -> str:
    """The name of a status code, or its number."""
    return STATUS_NAMES.get(code, f"status_{code:#04x}")


class Statistics(NamedTuple):
    """What the workers counted; pages and descriptors in numbers, times in nanoseconds.

    Attributes:
        descriptors: COMPVAL descriptors that a work queue took, members of batches included.
        batches: batch descriptors that a work queue took.
        pages_device: pages decided by a completion record.
        pages_sampled: normal pages that the CPU found by its look before submission.
        pages_completed: pages meant for the device that the CPU had to decide.
        pages_cpu: pages never meant for the device.
        page_faults: records that reported one.
        refined: runs of pages that were compared again after a mismatch.
        retries: submissions that a queue did not take at once.
        queue_full: submissions abandoned because the queue stayed full.
        timeouts: submissions whose record did not come in time.
        opens: times that a queue was opened.
        submit_ns, wait_ns: wall clock spent submitting, and waiting for records.
        cpu_ns: CPU time of the workers' threads that submit.
        statuses: records by the name of their status.
        answered, refused: batches that workers answered, and that they refused as invalid.
        latency_ns: wall clock from the beginning of a batch to its answer, over all batches.
    """

    descriptors: int
    batches: int
    pages_device: int
    pages_sampled: int
    pages_completed: int
    pages_cpu: int
    page_faults: int
    refined: int
    retries: int
    queue_full: int
    timeouts: int
    opens: int
    submit_ns: int
    wait_ns: int
    cpu_ns: int
    statuses: dict[str, int]
    answered: int
    refused: int
    latency_ns: int

    @classmethod
    def of(cls, words: Sequence[int]) -> Statistics:
        """From the words of `shm.layout.STATS`, of which it has those that it names."""
        by_code = enumerate(statistic_array(words, "statuses"))
        statuses = {status_name(code): count for code, count in by_code if count}
        counts = {name: statistic(words, name) for name in cls._fields if name != "statuses"}
        return cls(**counts, statuses=statuses)

    @classmethod
    def total(cls, channels: Sequence[ChannelReport]) -> Statistics:
        """Counts over all channels."""
        columns = zip(*(each.words for each in channels), strict=True)
        return cls.of([sum(column) for column in columns] or [0] * STATS_WORDS)


class Failure(NamedTuple):
    """The first descriptor of a channel that came back with a failure, or never.

    Page faults are not failures: pages come and go.

    Attributes:
        descriptor: its 64 bytes, as submitted.
        record: its completion record, 32 bytes; all 0 where none was written.
    """

    descriptor: bytes
    record: bytes

    @classmethod
    def of(cls, kept: tuple[bytes, bytes] | None) -> Failure | None:
        """From what a worker kept."""
        return None if kept is None else cls(*kept)

    @property
    def status(self) -> str:
        """The name of its status; `no_record` where none was written."""
        if self.record[0] == 0:
            return "no_record"
        return status_name(self.record[0] & STATUS_MASK)

    def to_json(self) -> dict[str, str]:
        """The bytes in hexadecimal."""
        return {
            "status": self.status,
            "descriptor": self.descriptor.hex(),
            "record": self.record.hex(),
        }


class ChannelReport(NamedTuple):
    """What one channel worked with and what it counted.

    Attributes:
        engine: "dsa" or "cpu".
        queue: the work queue as users name it, or None.
        submit: how descriptors were submitted: "enqcmd", "movdir64b", "write", or None.
        why: one line: why this engine and queue.
        failure: of its work queues, the first since the channel was opened.
    """

    channel: int
    engine: str
    queue: str | None
    submit: str | None
    why: str
    words: tuple[int, ...]
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        """This channel's entry in the JSON report."""
        return {
            "channel": self.channel,
            "engine": self.engine,
            "queue": self.queue,
            "submit": self.submit,
            "why": self.why,
            "statistics": Statistics.of(self.words)._asdict(),
            "failure": None if self.failure is None else self.failure.to_json(),
        }
